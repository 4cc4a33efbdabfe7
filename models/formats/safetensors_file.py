"""Safetensors files: read by the safetensors library, which runs nothing, once we have seen how long the header is.

Source: https://huggingface.co/docs/safetensors, "Format".
"""

from __future__ import annotations

import struct
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from safetensors import safe_open

from .errors import RefusedError

_LENGTH = struct.Struct("<Q")
_LONGEST_HEADER = 16 << 20  # bytes; that of a model of 10,000 tensors has some 2 million


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins with `head` is one: a length of less than 2^56 bytes, then JSON."""
    return len(head) > _LENGTH.size and head[_LENGTH.size - 1] == 0 and head[_LENGTH.size] == b"{"[0]


def open_safetensors(path: Path, head: bytes) -> AbstractContextManager[Any]:
    """The file at `path`, which begins with `head`, for the names in it (`keys`) and its tensors (`get_tensor`).

    Raises `RefusedError` for a header longer than any model's, and `SafetensorError` for a damaged file.
    """
    (length,) = _LENGTH.unpack_from(head)
    if length > _LONGEST_HEADER:
        raise RefusedError(
            f"has a header of {length} bytes, of which at most {_LONGEST_HEADER} are read; it is damaged or no model: "
            "download it again"
        )
    return safe_open(path, framework="pt", device="cpu")
