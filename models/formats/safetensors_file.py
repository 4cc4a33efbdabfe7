"""Safetensors files: a header in JSON, then the bytes of the tensors, one behind the other without holes.

Read by us and not by the safetensors library, whose tensors are views of the mapped file: if that is cut short or
written to meanwhile, the process dies, or the weights change.

Source: https://huggingface.co/docs/safetensors, "Format".
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from .element_types import ELEMENT_TYPES
from .errors import DamagedError, RefusedError, shown
from .records import StorageRecord, TensorRecord

_LENGTH = struct.Struct("<Q")
_TEXTS = "__metadata__"  # a name that no tensor has
_LONGEST_HEADER = 8 << 20  # bytes; that of a model of 10,000 tensors has one or two million
_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64",
    "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool", "C64": "complex64",
}  # fmt: skip


@dataclass(frozen=True)
class SafetensorsFile:
    """The tensors by name, each in a storage of that key, how to read a storage's bytes into memory, and the texts by
    name that were saved along with them."""

    records: dict[str, TensorRecord]
    read: Callable[[StorageRecord, memoryview], None]
    texts: dict[str, str]


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins with `head` is one: a length of less than 2^56 bytes, then JSON."""
    return len(head) > _LENGTH.size and head[_LENGTH.size - 1] == 0 and head[_LENGTH.size] == b"{"[0]


def open_safetensors(file: BinaryIO, size: int, start: int = 0) -> SafetensorsFile:
    """The file, which has `size` bytes and must stay open; or what lies in another from the byte `start` to its end.
    Raises `DamagedError` or `RefusedError`."""
    file.seek(start)
    told = file.read(_LENGTH.size)
    if len(told) != _LENGTH.size:
        raise DamagedError("it is cut short")
    (length,) = _LENGTH.unpack(told)
    if length > _LONGEST_HEADER:
        raise RefusedError(
            f"has a header of {length} bytes, of which at most {_LONGEST_HEADER} are read; it is damaged or no model: "
            "download it again"
        )
    header = file.read(length)
    if len(header) != length:
        raise DamagedError("its header is cut short")
    begin = start + _LENGTH.size + length
    places: dict[str, int] = {}
    records: dict[str, TensorRecord] = {}
    parsed = _parsed(header)
    texts = _texts(parsed.pop(_TEXTS, None))
    for name, told in parsed.items():
        records[name], places[name] = _record(name, told)
    _check_covered(places, records, size - begin)

    def read(storage: StorageRecord, into: memoryview) -> None:
        file.seek(begin + places[storage.key])
        if file.readinto(into) != len(into):  # type: ignore[attr-defined]
            raise DamagedError("it is cut short")

    return SafetensorsFile(records, read, texts)


def _parsed(header: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(header, object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as error:
        raise DamagedError("its header is no JSON, or damaged") from error
    if not isinstance(parsed, dict):
        raise DamagedError("its header is no list of tensors")
    return parsed


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("two of one name")
    return made


def _texts(told: Any) -> dict[str, str]:
    """What is no text is none that safetensors' own library would have written: left out, since no tensor hangs on
    it."""
    pairs = told.items() if isinstance(told, dict) else ()
    return {name: text for name, text in pairs if isinstance(text, str)}


def _record(name: str, told: Any) -> tuple[TensorRecord, int]:
    """The tensor that the header tells of, and where its bytes begin behind the header."""
    if not isinstance(told, dict) or not isinstance(told.get("dtype"), str):
        raise DamagedError(f"its header tells nothing of {shown(name)}")
    dtype = ELEMENT_TYPES.get(_TYPES.get(told["dtype"], ""))
    if dtype is None:
        raise RefusedError(f"has a tensor of type {shown(told['dtype'])}, which is not read; save it in F32 or F16")
    shape, place = told.get("shape"), told.get("data_offsets")
    if not isinstance(shape, list) or not isinstance(place, list) or len(place) != 2:
        raise DamagedError(f"its header has no shape or place of {shown(name)}")
    begin, end = place
    if type(begin) is not int or type(end) is not int or not 0 <= begin <= end:
        raise DamagedError(f"its header has no place of {shown(name)}")
    storage = StorageRecord(name, dtype, (end - begin) // dtype.itemsize)
    strides = [1]
    for side in reversed(shape[1:]):
        strides.append(strides[-1] * max(1, side) if type(side) is int else -1)
    record = TensorRecord(storage, 0, tuple(shape), tuple(reversed(strides))[: len(shape)])
    if math.prod(record.shape) * dtype.itemsize != end - begin:
        raise DamagedError(f"{shown(name)} is not as long as its shape says")
    return record, begin


def _check_covered(places: dict[str, int], records: dict[str, TensorRecord], size: int) -> None:
    """Raise `DamagedError` unless the tensors fill the `size` bytes behind the header, each byte one's alone."""
    end = 0
    for name in sorted(places, key=lambda name: (places[name], records[name].size)):
        if places[name] != end:
            raise DamagedError(f"{shown(name)} does not begin where the tensor before it ends")
        end += records[name].size
    if end != size:
        raise DamagedError(f"its tensors have {end} bytes, and it has {size} for them; it is cut short or longer")
