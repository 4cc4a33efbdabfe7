"""The programs that came with models: which file of `cudaspeed export` a loaded model is from, and what is in it."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..storage.files import sha256_of
from .formats.errors import DamagedError, RefusedError
from .formats.exported_file import ExportInfo, is_exported, open_exported
from .formats.tensors import tensors_of

_HEAD = 64  # bytes by which a file is known


@dataclass(frozen=True)
class ExportedModel:
    """The file at `path`, as long as its hash is `sha256`, which says `info` of itself."""

    path: Path
    sha256: str
    info: ExportInfo


@dataclass(frozen=True)
class ExportedPrograms:
    """Programs of one precision by the tiles that they take at once, and the tensors that they take, by their own
    names."""

    programs: Mapping[int, bytes]
    tensors: Mapping[str, Tensor]


_from: weakref.WeakKeyDictionary[nn.Module, ExportedModel] = weakref.WeakKeyDictionary()


def note_exported(module: nn.Module, path: Path) -> None:
    """Keep in mind that the `module` was made of the weights in the file `path`, if programs came with them. Raises
    nothing: its weights are good without them."""
    try:
        with path.open("rb") as file:
            if not is_exported(file.read(_HEAD)):
                return
            info = open_exported(file, path.stat().st_size).info
        _from[module] = ExportedModel(path.absolute(), sha256_of(path), info)
    except (OSError, DamagedError, RefusedError):  # it was there, and whole, a moment ago
        return


def exported_of(module: nn.Module) -> ExportedModel | None:
    """The file that a loaded model is from, None where no programs came with it."""
    return _from.get(module)


def programs_in(exported: ExportedModel, module: nn.Module, precision: str) -> ExportedPrograms:
    """Those for a `precision` ("fp32" or "bf16") and the weights that `module` has. Raises `ValueError`, whose text is
    the end of a sentence about the file, where they cannot be had: it was replaced, the model's weights have become
    others, or it has none; and `OSError` where it cannot be read."""
    path = exported.path
    if sha256_of(path) != exported.sha256:
        raise ValueError("was replaced since the model was loaded; load it again")
    with path.open("rb") as file:
        opened = open_exported(file, path.stat().st_size)
        programs = opened.programs(file, precision)
        tensors = tensors_of(opened.tensors.records, opened.tensors.read)
    if not programs:
        raise ValueError(f"has no program for {precision}; export it again")
    state = module.state_dict()
    theirs = tensors.keys() - opened.info.beside
    if theirs != state.keys() or not all(torch.equal(tensors[name], state[name].cpu()) for name in theirs):
        raise ValueError("has other weights than the model has by now")
    return ExportedPrograms(programs, {name: tensors[tensor] for name, tensor in opened.info.arguments.items()})
