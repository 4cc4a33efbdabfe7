"""Exporting a model: programs for XLA by torchax, and the weights, into one file (`models/formats/exported_file.py`).

For a process of its own, or the command line's: torchax takes hold of torch when it is imported, and JAX is bound to
its CPU backend.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from spandrel import ImageModelDescriptor
from torch import Tensor

from ..api.errors import BadModelError, BadOptionError, first_line
from ..api.model_info import ModelInfo
from ..api.options import Precision
from ..backends.errors import CompileError
from ..backends.interface import Work
from ..backends.shapes import TileShapes
from ..backends.xla import Xla
from ..backends.xla_file import XlaPrograms, as_array
from ..models.execution import ExecutionMode
from ..models.formats.exported_file import ENDING, ExportInfo
from ..models.info import model_info
from ..models.loader import load_model
from ..models.precision import supported_precisions
from ..models.runner import ModelRunner, architecture_of
from ..storage.fingerprint import content_of
from ..tiling.plan import automatic_overlap
from .aoti import Compiler, Whole

_CPU = torch.device("cpu")
_WHOLE = "module."  # as `Whole` has the model's names
_NO_WAY_BACK = "spandrel makes another model of the names and weights that it has once it is loaded"


@dataclass(frozen=True)
class Export:
    """What a file has: `info`, the programs by precision and tiles at once, `tensors` by name. `folded`: how many of
    the model's weights the programs take in another form than its state dict has them. `checked`: a program's result
    was compared with torch's."""

    info: ExportInfo
    programs: Mapping[str, Mapping[int, bytes]]
    tensors: Mapping[str, Tensor]
    folded: int
    checked: bool

    def write(self, file: BinaryIO) -> None:
        """Raises `OSError` where it cannot be written."""
        file.write(self.info.to_bytes())
        for programs in self.programs.values():
            for program in programs.values():
                file.write(program)
        file.write(save(dict(self.tensors)))


def check_export(made: Export, descriptor: ImageModelDescriptor, folder: Path) -> None:
    """Raise `CompileError` where the model that is loaded from such a file is another one than was exported. It is
    written into `folder`, for a moment."""
    path = folder / f"model{ENDING}"
    try:
        with path.open("xb") as file:
            made.write(file)
        loaded = load_model(path)
    except BadModelError as error:
        raise CompileError(f"{_NO_WAY_BACK} ({first_line(error)})") from error
    finally:
        path.unlink(missing_ok=True)
    if _identity(loaded) != _identity(descriptor):
        raise CompileError(_NO_WAY_BACK)


def check_tile(tile: tuple[int, int], info: ModelInfo) -> None:
    """Raise `BadOptionError` for tiles of (height, width) that no picture would be cut into for a model of `info`."""
    height, width = tile
    told = f"tile is {width}x{height}, and {info.name}"
    least = max(info.minimum, automatic_overlap(info) + info.alignment + 1)
    least += -least % info.alignment
    if height % info.alignment or width % info.alignment:
        near = "x".join(str(max(least, side + -side % info.alignment)) for side in (width, height))
        raise BadOptionError(f"{told} takes sides that are multiples of {info.alignment}; give {near}")
    if min(tile) < least:
        raise BadOptionError(f"{told} needs sides of at least {least}, since tiles overlap; give {least}x{least}")
    if info.square and height != width:
        raise BadOptionError(f"{told} takes square tiles only; give {max(tile)}x{max(tile)}")


def export_model(
    descriptor: ImageModelDescriptor, tile: tuple[int, int], platforms: tuple[str, ...], kept: Path
) -> Export:
    """The model for tiles of (height, width) on `platforms`; where a CPU is among these, a program's result is compared
    with torch's. `kept` is where XLA keeps what it compiles for that. Raises `BadOptionError` for a tile that does not
    suit it, `TraceError` and `CompileError` where it cannot be exported."""
    info, shapes = model_info(descriptor), TileShapes.one(*tile)
    check_tile(tile, info)
    engine, checked, made = Xla("xla:cpu", kept), "cpu" in platforms, dict[str, XlaPrograms]()
    parameters = set[str]()
    # in each weights and all that is computed have that type
    supported: list[Precision] = ["fp32", *(["bf16"] if "bf16" in supported_precisions(descriptor) else [])]
    for precision in supported:
        runner = ModelRunner(descriptor, ExecutionMode(precision, autocast=False, channels_last=False))
        compiler = Compiler(runner, descriptor.input_channels, shapes, _CPU)
        work = Work(Whole(runner), compiler.example(), shapes, precision, _CPU, kept)
        made[precision] = _as_in_file(engine.exported(work, platforms), made.get("fp32"), precision)
        flaw = compiler.flaw(engine.forward_of(made[precision])) if checked else None
        if flaw:
            raise CompileError(f"its result in {precision} is wrong: {flaw}")
        parameters = {f"{_WHOLE}{name}" for name, _ in runner.module.named_parameters()}
    return _put_together(descriptor, tile, made, parameters, checked)


def _as_in_file(made: XlaPrograms, full: XlaPrograms | None, precision: Precision) -> XlaPrograms:
    """What was `made` in a `precision`, with the weights that it is going to be given: those that the file has, the
    `full` ones, in its own type."""
    if full is None:
        return made
    narrow = precision == "bf16"
    return replace(made, weights={name: as_array(weight, narrow) for name, weight in full.weights.items()})


def _put_together(
    descriptor: ImageModelDescriptor,
    tile: tuple[int, int],
    made: Mapping[str, XlaPrograms],
    parameters: set[str],
    checked: bool,
) -> Export:
    state = {name: _own(tensor) for name, tensor in descriptor.model.state_dict().items()}
    first = made["fp32"]
    arguments, beside = {}, dict[str, Tensor]()
    for name, weight in first.weights.items():
        original = name.removeprefix(_WHOLE)
        if original in state and _same(as_array(state[original]), weight):
            arguments[name] = original
        else:
            arguments[name] = f"xla.{name}"
            beside[f"xla.{name}"] = torch.from_numpy(weight.copy())
    lengths = {kind: {tiles: len(program) for tiles, program in one.programs.items()} for kind, one in made.items()}
    info = ExportInfo(first.jax, first.platforms, tile, lengths, arguments, frozenset(beside))
    folded = len(parameters & {name for name, tensor in arguments.items() if tensor in beside})
    programs = {kind: one.programs for kind, one in made.items()}
    return Export(info, programs, {**state, **beside}, folded, checked)


def _identity(descriptor: ImageModelDescriptor) -> tuple[str, str]:
    return content_of(descriptor.model), architecture_of(descriptor)


def _own(tensor: Tensor) -> Tensor:
    """A copy: a state dict's tensors may share memory or lie in another layout, which safetensors refuses."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return (one.dtype, one.shape) == (other.dtype, other.shape) and np.array_equal(one, other)
