"""A model's forward as a package of its own: traced, compiled by AOTInductor into a shared library, loaded.

AOTInductor (https://docs.pytorch.org/docs/stable/torch.compiler_aot_inductor.html) rather than `torch.compile`'s own
caches, because a package loads in milliseconds, without dynamo, pickle or a process-wide flag; docs/compiling.md has
the measurements.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..api.model_info import Forward
from ..api.upstream import compile_package, compiler_options, package_loader
from ..backends.errors import CompileError, TraceError
from ..backends.shapes import TileShapes
from ..backends.varying_sizes import varying_sizes
from ..kernels.numerics import OF_A_MODEL, compare
from ..models.info import is_convolutional
from ..models.runner import ModelRunner
from ..storage.ownership import NotOwnError, check_way
from .errors import said
from .fold_constants import fold_constants

logger = logging.getLogger("cudaspeed")

# The size that a forward for any size is tuned for.
_TYPICAL_SIDE = {"cpu": 128}
_TYPICAL_SIDE_ELSEWHERE = 256

_TEMPORARY = ("TMPDIR", "TMP", "TEMP", "TEMPDIR")  # as C++ has it

_OPTIONS = {
    # Weights in the package, at the price of their memory: nothing to bind, nothing that can go stale.
    "aot_inductor.package_constants_in_so": True,
    # The threads that the host allows, not those that this process has.
    "cpp.dynamic_threads": True,
    # They take longer to make than they save here, 240 MB, and the openssl command.
    "aot_inductor.precompile_headers": False,
}


def check_unpacking() -> None:
    """Raise `OSError` where another user could put something else in the place of what torch unpacks of a package,
    before it is loaded: into a folder of its own in /tmp, or, since 2.15 at the latest, where the environment says."""
    places = {"": "/tmp", **{name: os.environ[name] for name in _TEMPORARY if os.environ.get(name)}}
    for name, folder in places.items():
        try:
            check_way(Path(folder), into=True)
        except NotOwnError as error:
            told = f"torch unpacks what is compiled into {folder}, which is not safe from other users"
            advice = f"set {name} to a folder of your own" if name else f"chmod +t {folder}, as its owner"
            raise OSError(f"{told}; {advice}") from error


def load_package(path: Path, device: torch.device) -> Forward:
    """The forward in a package: x [N, C, h, w] float32 on `device` -> its output. Milliseconds; no compiler is asked.

    It checks no shapes: give it only what `TileShapes.fit` accepts. Loading runs the package's code, so the file must
    come from the trusted store. Raises `RuntimeError` for a file that is no package of this torch, and what
    `check_unpacking` raises.
    """
    check_unpacking()
    loader = package_loader(str(path), device)

    def forward(x: Tensor) -> Tensor:
        return loader.run([x.contiguous()])[0]  # the strides, too, are those it was traced with

    return forward


class Package(NamedTuple):
    """What was compiled, loaded, and the options that it was compiled with beside `_OPTIONS`."""

    forward: Forward
    options: dict[str, Any]


class Compiler:
    """Compiles a runner's forward for some tile shapes, and checks the results against it, on the device where it lies.

    `channels` are its input's. For a process of its own: it takes the interpreter for seconds at a time.
    """

    def __init__(self, runner: ModelRunner, channels: int, shapes: TileShapes, device: torch.device) -> None:
        self._runner, self._channels, self._shapes, self._device = runner, channels, shapes, device
        self._convolutional = is_convolutional(runner.module)

    def usual(self, target: Path) -> Package:
        """Compile into the file `target` in the way that is known to be good. Raises `CompileError` when the result is
        wrong, and whatever export and compiler raise."""
        # Freezing packs weights for the CPU's kernels: SwinIR gains a third. Chains of convolutions gain little, and
        # torch 2.11 miscompiles long ones so (RRDB of 23 blocks: 0.1 off). Where it fails or is wrong, it is left out.
        options = self.first_options()
        if options["freezing"]:
            try:
                return self._build(target, **options)
            except Exception:  # whatever it is, the next try is without
                logger.exception("compiling with packed weights failed")
        return self._build(target, freezing=False)

    def first_options(self) -> dict[str, Any]:
        """Those that `usual` tries first."""
        return {"freezing": self._device.type == "cpu" and not self._convolutional}

    def tuned(self, options: dict[str, Any], target: Path) -> Package | None:
        """Compile into `target` with the `options` of the usual result and every kernel chosen by trying it out, where
        there are such. Raises what `usual` raises."""
        if self._device.type == "cpu" and self._convolutional:  # oneDNN's, whatever is tried
            return None
        return self._build(target, **options, max_autotune=True)

    def example(self) -> Tensor:
        """A batch [N, C, h, w] of the shapes asked for. A size of 1, or two equal ones, would be traced as fixed."""
        shapes = self._shapes
        if shapes.fixed:
            return torch.rand(shapes.batch, self._channels, *shapes.most, device=self._device)
        step, least, most = shapes.step, max(shapes.least), min(shapes.most)
        side = min(max(_TYPICAL_SIDE.get(self._device.type, _TYPICAL_SIDE_ELSEWHERE), least), most - step)
        side = side // step * step
        return torch.rand(2, self._channels, side, side + step, device=self._device)

    def flaw(self, compiled: Forward) -> str | None:
        """Why it is not what the eager forward is, or None; at a size it was not traced with if it takes one."""
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(1, self._channels, *self._shapes.least, generator=generator).to(self._device)
        with torch.inference_mode():
            return compare(compiled(x), self._runner.forward(x), OF_A_MODEL[self._runner.mode.precision])

    def _build(self, target: Path, **options: Any) -> Package:
        known = compiler_options()
        ours = {name: value for name, value in _OPTIONS.items() if name in known}
        with torch.no_grad():
            compile_package(self._program(), str(target), {**ours, **options})
        forward = load_package(target, self._device)
        flaw = self.flaw(forward)
        if flaw:
            raise CompileError(f"the compiler's result is wrong: {flaw}")
        return Package(forward, options)

    def _program(self) -> torch.export.ExportedProgram:
        """The forward, traced for the shapes asked for. Raises `TraceError`."""
        example, shapes = self.example(), self._shapes
        varying = varying_sizes(shapes)
        try:
            program = torch.export.export(Whole(self._runner), (example,), dynamic_shapes=varying, strict=False)
            if not shapes.fixed:
                return program
            traced = program.run_decompositions({}).module()
            fold_constants(traced)
            return torch.export.export(traced, (example,), strict=False)
        except Exception as error:  # the tracer's many, and whatever a model raises on tensors without values
            raise TraceError(f"it cannot be traced for {shapes}: {said(error)}") from error


class Whole(nn.Module):
    """The runner's forward, its changes of type and layout included, as a module to trace."""

    def __init__(self, runner: ModelRunner) -> None:
        super().__init__()
        self.module, self._call = runner.module, runner.traceable

    def forward(self, x: Tensor) -> Tensor:
        return self._call(x)
