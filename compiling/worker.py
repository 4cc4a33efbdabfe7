"""The process that compiles: a model's weights and a request in, a package in the store out. It imports no host.

It is started by job.py, apart from the caller's process, so that whatever a compiler does (seconds of held
interpreter, crashes, flags) happens here. The result outlives whoever asked for it.

    weights -> spandrel -> copy -> torch.export -> AOTInductor -> checked against eager -> store
                                             again, every kernel tried out (max_autotune) -> checked -> if faster

AOTInductor (https://docs.pytorch.org/docs/stable/torch.compiler_aot_inductor.html) rather than `torch.compile`'s own
caches, because a package loads in milliseconds, without dynamo, pickle or a process-wide flag; docs/compiling.md has
the measurements.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from torch import Tensor, nn

from ..api.model_info import Forward
from ..kernels import window_attention, winograd
from ..kernels.numerics import OF_A_MODEL, compare
from ..kernels.timing import reproduced, seconds_of_forward, taking_turns
from ..models.info import is_convolutional
from ..models.loader import load_model
from ..models.runner import ModelRunner, architecture_of
from ..storage.artifacts import ArtifactStore, Usage
from ..storage.fingerprint import content_of
from .aoti import load_package
from .errors import CompileError, TraceError, explain, said
from .fold_constants import fold_constants
from .request import Request

logger = logging.getLogger("cudaspeed")

# The size that a forward for any size is tuned for.
_TYPICAL_SIDE = {"cpu": 128}
_TYPICAL_SIDE_ELSEWHERE = 256

_CLEARLY = 0.95  # of the usual result's time

_CONFIGS = {
    # Weights in the package, at the price of their memory: nothing to bind, nothing that can go stale.
    "aot_inductor.package_constants_in_so": True,
    # The threads that the host allows, not those that this process has.
    "cpp.dynamic_threads": True,
    # They take longer to make than they save here, 240 MB, and the openssl command.
    "aot_inductor.precompile_headers": False,
}


def main(request_file: str) -> None:
    """Compile what the file asks for and publish it, note how fast it is, and go on to what is faster still, if that
    can be made; note in the store why it failed, if it did."""
    logging.basicConfig(level=logging.INFO)
    scratch = Path(request_file).parent
    request = Request.from_json(Path(request_file).read_text(encoding="utf-8"))
    store, published = ArtifactStore(Path(request.folder)), threading.Event()
    watchdog = threading.Timer(request.limit, _give_up, (store, request, published))
    watchdog.daemon = True
    watchdog.start()
    began = time.perf_counter()
    try:
        _trust_the_processor()
        compiler = _Compiler(request)
        usual = compiler.usual(scratch / "model.pt2")
        store.publish(request.id, scratch / "model.pt2", time.perf_counter() - began)
        published.set()
        eager, rate = compiler.rates(usual)
        if store.get(request.id):  # nobody has cleared it away
            store.note(request.id, {}, Usage(eager_rate=eager, compiled_rate=rate))
        tuned = compiler.tuned(usual, scratch / "tuned.pt2")
        if tuned:
            eager, before, rate = compiler.rates(usual, tuned)
            if rate < _CLEARLY * before and store.improve(request.id, scratch / "tuned.pt2"):
                store.note(request.id, {}, Usage(eager_rate=eager, compiled_rate=rate))
    except Exception as error:  # compilers fail in every way there is; each is one line in the store
        logger.exception("compiling failed")
        scope, reason = explain(error)
        if scope and not published.is_set():
            store.fail(request.id, reason, scope, request.environment)
        else:
            store.release(request.id)
    finally:
        watchdog.cancel()
    if published.is_set():
        shutil.rmtree(scratch, ignore_errors=True)  # who asked may be gone


class _Built(NamedTuple):
    """What was compiled, loaded, and how."""

    forward: Forward
    configs: dict[str, Any]


class _Compiler:
    """Compiles the model that a request names, and checks the results against the eager forward, on the device.

    Raises `CompileError` when the weights give another model than was asked for.
    """

    def __init__(self, request: Request) -> None:
        descriptor = load_model(Path(request.weights))
        Path(request.weights).unlink()  # as large as the model, and read
        if content_of(descriptor.model) != request.content or architecture_of(descriptor) != request.architecture:
            raise CompileError("spandrel makes another model of its weights than the one that is used")
        self._request, self._descriptor, self._device = request, descriptor, torch.device(request.device)
        self._channels, self._convolutional = descriptor.input_channels, is_convolutional(descriptor.model)
        self._runner = ModelRunner(descriptor, request.mode)
        self._runner.module.to(self._device)

    def usual(self, target: Path) -> _Built:
        """Compile into the file `target` in the way that is known to be good. Raises `CompileError` when the result is
        wrong, and whatever export and compiler raise."""
        # Freezing packs weights for the CPU's kernels: SwinIR gains a third. Chains of convolutions gain little, and
        # torch 2.11 miscompiles long ones so (RRDB of 23 blocks: 0.1 off). Where it fails or is wrong, it is left out.
        if self._device.type == "cpu" and not self._convolutional:
            try:
                return self._build(target, freezing=True)
            except Exception:  # whatever it is, the next try is without
                logger.exception("compiling with packed weights failed")
        return self._build(target, freezing=False)

    def tuned(self, usual: _Built, target: Path) -> _Built | None:
        """Compile into `target` with every kernel chosen by trying it out, where there are such. Raises what `usual`
        raises."""
        if self._device.type == "cpu" and self._convolutional:  # oneDNN's, whatever is tried
            return None
        return self._build(target, **usual.configs, max_autotune=True)

    def rates(self, *built: _Built) -> list[float]:
        """Seconds for a megapixel of input, in eager and in each of `built`; 0 where the machine is too busy to say.

        At low priority, but all in turn: what they are to each other is right."""
        kernels, folder = self._request.eager.kernels, Path(self._request.folder)
        if kernels == "attention" and self._device.type == "cpu":
            window_attention.prepare(folder)
        if kernels == "winograd" and not (winograd.prepare(folder) and window_attention.prepare(folder)):
            return [0.0] * (1 + len(built))
        eager = ModelRunner(self._descriptor, self._request.eager)
        eager.module.to(self._device)
        x, _ = self._example()
        forwards = [eager.eager(self._device), *(one.forward for one in built)]
        with torch.inference_mode():
            times = taking_turns([partial(seconds_of_forward, forward, x) for forward in forwards])
        megapixels = x.shape[0] * x.shape[2] * x.shape[3] / 1e6
        return [min(taken) / megapixels * all(map(reproduced, times)) for taken in times]

    def _build(self, target: Path, **configs: Any) -> _Built:
        with torch.no_grad():
            torch._inductor.aoti_compile_and_package(
                self._program(), package_path=str(target), inductor_configs={**_known_configs(), **configs}
            )
        forward = load_package(target, self._device)
        flaw = self._flaw(forward)
        if flaw:
            raise CompileError(f"the compiler's result is wrong: {flaw}")
        return _Built(forward, configs)

    def _program(self) -> torch.export.ExportedProgram:
        """The forward, traced for the shapes asked for. Raises `TraceError`."""
        shapes, (example, dynamic) = self._request.shapes, self._example()
        try:
            program = torch.export.export(_Whole(self._runner), (example,), dynamic_shapes=dynamic, strict=False)
            if not shapes.fixed:
                return program
            traced = program.run_decompositions({}).module()
            fold_constants(traced)
            return torch.export.export(traced, (example,), strict=False)
        except Exception as error:  # the tracer's many, and whatever a model raises on tensors without values
            raise TraceError(f"it cannot be traced for {shapes}: {said(error)}") from error

    def _example(self) -> tuple[Tensor, tuple[dict[int, Any]] | None]:
        """A batch to trace with, and which of its sizes may vary. A size of 1, or two equal ones, would count as
        fixed."""
        shapes = self._request.shapes
        if shapes.fixed:
            return torch.rand(shapes.batch, self._channels, *shapes.most, device=self._device), None
        step, least, most = shapes.step, max(shapes.least), min(shapes.most)
        side = min(max(_TYPICAL_SIDE.get(self._device.type, _TYPICAL_SIDE_ELSEWHERE), least), most - step)
        side = side // step * step
        vertical, horizontal = (
            torch.export.Dim(name, min=low // step, max=high // step)
            for name, low, high in zip(("vertical", "horizontal"), shapes.least, shapes.most, strict=True)
        )
        dynamic = {0: torch.export.Dim("count", min=1, max=shapes.batch), 2: step * vertical, 3: step * horizontal}
        return torch.rand(2, self._channels, side, side + step, device=self._device), (dynamic,)

    def _flaw(self, compiled: Forward) -> str | None:
        """Why it is not what the eager forward is, or None; at a size it was not traced with if it takes one."""
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(1, self._channels, *self._request.shapes.least, generator=generator).to(self._device)
        with torch.inference_mode():
            return compare(compiled(x), self._runner.forward(x), OF_A_MODEL[self._request.mode.precision])


def _known_configs() -> dict[str, Any]:
    """What of `_CONFIGS` this torch knows."""
    from torch._inductor import config

    known = config.get_config_copy()
    return {name: value for name, value in _CONFIGS.items() if name in known}


def _trust_the_processor() -> None:
    """The processor tells which instructions it has; to see whether the compiler knows them, inductor would compile a
    probe for each set and start a Python with torch to load it: half of a small model's compile."""
    from torch._inductor.cpu_vec_isa import VecISA

    VecISA.check_build = lambda self, code: True  # in this process, which only compiles


class _Whole(nn.Module):
    """The runner's forward, its changes of type and layout included, as a module to trace."""

    def __init__(self, runner: ModelRunner) -> None:
        super().__init__()
        self.module, self._call = runner.module, runner.forward

    def forward(self, x: Tensor) -> Tensor:
        return self._call(x)


def _give_up(store: ArtifactStore, request: Request, published: threading.Event) -> None:
    """The watchdog's end of a compiler that hangs: this process and those it started."""
    try:
        if not published.is_set():
            store.fail(request.id, f"compiling took longer than {request.limit:.0f} s", "model", request.environment)
        for child in psutil.Process().children(recursive=True):
            child.kill()
    finally:
        os._exit(1)
