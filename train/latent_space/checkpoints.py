"""States of training as safetensors: no pickle, which optimizers' and schedulers' are saved by elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

_SHAPE = "state"
_TENSOR, _MAPPING = "tensor", "mapping"  # how JSON names what it has not


def save_state(path: Path, state: Any) -> None:
    """Dictionaries, lists, numbers, texts and tensors, nested as they are. The file appears complete or not at all."""
    tensors: dict[str, Tensor] = {}
    shape = json.dumps(_packed(state, tensors))
    unfinished = path.with_suffix(".part")
    save_file(tensors, unfinished, {_SHAPE: shape})
    unfinished.replace(path)


def load_state(path: Path) -> Any:
    """What `save_state` was given, on the CPU; tuples are lists."""
    with safe_open(path, "pt") as file:
        texts = file.metadata() or {}
        if _SHAPE not in texts:
            raise ValueError(f"{path}: is no state of a training; choose another --out, or leave out --resume")
        return _unpacked(json.loads(texts[_SHAPE]), file)


def _packed(part: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(part, Tensor):
        key = str(len(tensors))
        tensors[key] = part.detach().cpu().contiguous().clone()  # safetensors wants no two to share memory
        return {_TENSOR: key}
    if isinstance(part, dict):
        return {_MAPPING: [[key, _packed(value, tensors)] for key, value in part.items()]}
    return [_packed(value, tensors) for value in part] if isinstance(part, list | tuple) else part


def _unpacked(part: Any, file: Any) -> Any:
    if isinstance(part, dict):
        if _TENSOR in part:
            return file.get_tensor(part[_TENSOR])
        return {key: _unpacked(value, file) for key, value in part[_MAPPING]}
    return [_unpacked(value, file) for value in part] if isinstance(part, list) else part
