"""Latent files, as ComfyUI's nodes SaveLatent and LoadLatent have them: safetensors with one latent, and texts.

The texts are "prompt", the workflow as it ran, and what else belongs to a picture, in JSON: they are kept as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from ..api.errors import BadImageError, first_line
from ..images.codecs.source import open_regular, size_of
from ..images.kinds import HEAD_BYTES, recognise
from ..images.whole import write_whole
from ..models.formats.errors import DamagedError, RefusedError, shown
from ..models.formats.safetensors_file import SafetensorsFile, is_safetensors, open_safetensors
from ..models.formats.tensors import tensors_of
from ..models.weights import check_room

_SAMPLES, _VERSION = "latent_tensor", "latent_format_version_0"
# Files without a version are of SD 1.5's time, and hold its latents scaled as its sampler has them.
_TO_RAW = 1.0 / 0.18215
_MOST_NAMES = 3  # of tensors, in a message
_SAVED = "a file that ComfyUI's SaveLatent has written"


@dataclass(frozen=True)
class LatentFile:
    """`samples` are a raw latent [B, C, H, W] or [B, C, T, H, W] of float32, as LoadLatent hands it out, or whatever
    else the file has for one; `texts` the file's, by name. `left_out` names tensors that a latent file does not
    have."""

    samples: Tensor
    texts: Mapping[str, str]
    left_out: tuple[str, ...] = ()


def read_latent(path: Path) -> LatentFile:
    """Read a latent file; the content decides, not the ending.

    Raises `BadImageError` if it is unreadable, not a regular file, damaged, none of a latent, or larger than the memory
    that is free; `MemoryError` where there is none for it.
    """
    try:
        with open_regular(path, "a latent file") as file:
            head = file.read(HEAD_BYTES)
            if not is_safetensors(head):
                raise RefusedError(_what_else(head))
            return _latent_in(open_safetensors(file, size_of(file)))
    except DamagedError as error:
        raise BadImageError(f"{path}: is damaged or cut short; copy or save it again ({first_line(error)})") from error
    except (RefusedError, BadImageError) as error:
        raise BadImageError(f"{path}: {error}") from error
    except OSError as error:
        raise BadImageError(f"{path}: cannot be read: {error.strerror or error}") from error


def write_latent(path: Path, samples: Tensor, texts: Mapping[str, str]) -> None:
    """Write a raw latent as SaveLatent does. The file appears complete or not at all, and replaces one that is there.
    Raises `OutputError`."""
    tensors = {_SAMPLES: samples.contiguous(), _VERSION: torch.tensor([])}
    content = safetensors.torch.save(tensors, {**texts} or None)
    write_whole(path, lambda file: file.write(content))


def _latent_in(file: SafetensorsFile) -> LatentFile:
    record = file.records.get(_SAMPLES)
    if record is None:
        names = ", ".join(shown(name, most=40) for name in [*file.records][:_MOST_NAMES])
        found = f"{len(file.records)} other tensor(s) ({names})" if names else "none at all"
        raise RefusedError(f"has no tensor {_SAMPLES}, but {found}; give {_SAVED}")
    check_room(record.size)
    samples = tensors_of({_SAMPLES: record}, file.read)[_SAMPLES]
    if samples.is_floating_point():
        samples = samples.float() * (1.0 if _VERSION in file.records else _TO_RAW)
    left_out = tuple(shown(name) for name in file.records if name not in (_SAMPLES, _VERSION))
    return LatentFile(samples, file.texts, left_out)


def _what_else(head: bytes) -> str:
    """What a file is that begins with `head`, and is no safetensors file."""
    if not head:
        return "the file is empty; copy or save it again"
    picture = recognise(head)
    if picture:
        return f"is a picture ({picture}), not a latent; 'cudaspeed upscale' enlarges pictures"
    return f"is no latent file, or its beginning is damaged; give {_SAVED}"
