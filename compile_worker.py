"""The process that compiles: a model's weights and a request in, a package in the store out. It imports no host.

It is started by compile_jobs.py, apart from the caller's process, so that whatever a compiler does (seconds of held
interpreter, crashes, flags) happens here. The result outlives whoever asked for it.

    weights -> spandrel -> working copy -> torch.export -> AOTInductor -> checked against eager -> store

AOTInductor (https://docs.pytorch.org/docs/stable/torch.compiler_aot_inductor.html) rather than `torch.compile`'s own
caches, because a package loads in milliseconds, without dynamo, pickle or a process-wide flag; docs/compiling.md has
the measurements.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from spandrel import ImageModelDescriptor
from torch import Tensor, nn

from .agreement import disagreement
from .artifacts import ArtifactStore
from .contracts import Forward, TileShapes, first_line
from .folding import fold_constants
from .packages import load_package
from .traits import is_convolutional
from .weights import load_model
from .working import Variant, WorkingModel, architecture_of, content_of

logger = logging.getLogger("cudaspeed")

# The size that a forward for any size is tuned for.
_TYPICAL_SIDE = {"cpu": 128}
_TYPICAL_SIDE_ELSEWHERE = 256

_CONFIGS = {
    # Weights in the package, at the price of their memory: nothing to bind, nothing that can go stale.
    "aot_inductor.package_constants_in_so": True,
    # The threads that the host allows, not those that this process has.
    "cpp.dynamic_threads": True,
    # They take longer to make than they save here, 240 MB, and the openssl command.
    "aot_inductor.precompile_headers": False,
}

# What an error's text says -> what is missing and how to get it. All of these are the machine's, not the model's.
_MISSING = {
    ("no working c++ compiler", "compiler: cl is not found", "compiler: cl"): (
        "no C++ compiler was found; install one (Linux: g++, macOS: xcode-select --install, Windows: Visual Studio "
        "Build Tools with C++)"
    ),
    (
        "cannot find a working triton",
        "tritonmissing",
    ): "Triton is missing or does not work; install triton (Linux) or triton-windows for this torch",
    ("python.h",): "Python's C headers are missing; install them (Linux: python3-dev)",
    ("cuda.h", "cuda_runtime", "cuda_home", "-lcuda", "nvcc"): (
        "CUDA's headers or libraries are missing; install the CUDA toolkit of torch's CUDA version, or set CUDA_HOME"
    ),
    ("unrecognized command",): "the C++ compiler is too old for this processor; install a newer one",
    ("omp.h", "-lomp", "-fopenmp"): "the C++ compiler has no OpenMP; install it (macOS: libomp)",
}


class TraceError(RuntimeError):
    """The model cannot be traced for the shapes asked for; the cause says why."""


class CompileError(RuntimeError):
    """The model cannot be compiled, or the result is wrong."""


@dataclass(frozen=True)
class Request:
    """What to compile, and how it will be called. `id` is its name in the store in `folder`.

    `content` and `architecture` are what the weights must turn out to be. After `limit` seconds the worker gives up.
    """

    id: str
    folder: str
    weights: str
    content: str
    architecture: str
    variant: Variant
    shapes: TileShapes
    device: str
    environment: str
    limit: float

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "shapes": str(self.shapes)})

    @staticmethod
    def from_json(text: str) -> Request:
        fields = json.loads(text)
        variant, shapes = Variant(**fields.pop("variant")), TileShapes.parse(fields.pop("shapes"))
        return Request(**fields, variant=variant, shapes=shapes)


def main(request_file: str) -> None:
    """Compile what the file asks for and publish it; note in the store why it failed, if it did."""
    logging.basicConfig(level=logging.INFO)
    request = Request.from_json(Path(request_file).read_text(encoding="utf-8"))
    store = ArtifactStore(Path(request.folder))
    watchdog = threading.Timer(request.limit, _give_up, (store, request))
    watchdog.daemon = True
    watchdog.start()
    began = time.perf_counter()
    try:
        _trust_the_processor()
        package = compile_package(request, Path(request_file).with_name("model.pt2"))
        store.publish(request.id, package, time.perf_counter() - began)
        shutil.rmtree(Path(request_file).parent, ignore_errors=True)  # who asked may be gone
    except Exception as error:  # compilers fail in every way there is; each is one line in the store
        logger.exception("compiling failed")
        scope, reason = explain(error)
        if scope:
            store.fail(request.id, reason, scope, request.environment)
        else:
            store.release(request.id)
    finally:
        watchdog.cancel()


def compile_package(request: Request, target: Path) -> Path:
    """Compile into the file `target` and check the result against the eager forward, on the device.

    Raises `CompileError` when the weights give another model than was asked for or the result differs, and whatever
    export and compiler raise.
    """
    descriptor = load_model(Path(request.weights))
    Path(request.weights).unlink()  # as large as the model, and read
    if content_of(descriptor.model) != request.content or architecture_of(descriptor) != request.architecture:
        raise CompileError("spandrel makes another model of its weights than the one that is used")
    device = torch.device(request.device)
    working = WorkingModel(descriptor, request.variant)
    working.module.to(device)
    # Freezing packs weights for the CPU's kernels: SwinIR gains a third. Chains of convolutions gain little, and torch
    # 2.11 miscompiles long ones so (RRDB of 23 blocks: 0.1 off). Where it fails or is wrong, it is left out.
    packs = device.type == "cpu" and not is_convolutional(descriptor.model)
    reason = _build(request, working, descriptor, target, freezing=True) if packs else "not tried"
    if reason:
        reason = _build(request, working, descriptor, target, freezing=False)
    if reason:
        raise CompileError(f"the compiler's result is wrong: {reason}")
    return target


def _build(
    request: Request, working: WorkingModel, descriptor: ImageModelDescriptor, target: Path, freezing: bool
) -> str | None:
    """Compile into `target`; returns why the result is not the model, None if it is. With `freezing` never raises."""
    device = torch.device(request.device)
    try:
        with torch.no_grad():
            example, dynamic = _example(request.shapes, descriptor, device)
            try:
                program = torch.export.export(_Whole(working), (example,), dynamic_shapes=dynamic, strict=False)
                if request.shapes.fixed:
                    traced = program.run_decompositions({}).module()
                    fold_constants(traced)
                    program = torch.export.export(traced, (example,), strict=False)
            except Exception as error:  # the tracer's many, and whatever a model raises on tensors without values
                raise TraceError(f"it cannot be traced for {request.shapes}: {_said(error)}") from error
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(target), inductor_configs={**_known_configs(), "freezing": freezing}
            )
        return _strays(load_package(target, device), working, request, descriptor, device)
    except Exception as error:  # the next try is without
        if not freezing:
            raise
        logger.exception("compiling with packed weights failed")
        return str(error)


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


def explain(error: BaseException) -> tuple[str, str]:
    """(scope, reason) of a failed compile: "environment" for what the machine lacks, "model" for what will fail again
    on this machine, "shapes" where other shapes may do better, "" for what may pass (memory or disk that ran out). The
    reason is one line."""
    text = _said(error)
    short = "out of memory" in text.lower() or "signal terminated program" in str(error)  # the system's killer's work
    if "no space left" in text.lower():
        return "", "the disk is full"
    if short or isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "", "memory ran out"
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
        return "", text[:300]
    if not isinstance(error, CompileError | TraceError):
        for words, reason in _MISSING.items():
            if any(word in text.lower() for word in words):
                return "environment", reason
    return "shapes" if isinstance(error, TraceError) else "model", text[:300]


def _said(error: BaseException) -> str:
    """The line that matters. A C++ compiler's errors come after the command, whose flags name all sorts of things."""
    if isinstance(error, CompileError | TraceError):
        return str(error)
    output = str(error).partition("Output:\n")[2]
    complaints = [line for line in output.splitlines() if "error:" in line]
    return (
        f"{type(error).__name__}: {complaints[0].partition('error:')[2].strip() if complaints else first_line(error)}"
    )


class _Whole(nn.Module):
    """The working model's forward, its changes of type and layout included, as a module to trace."""

    def __init__(self, working: WorkingModel) -> None:
        super().__init__()
        self.module, self._call = working.module, working.forward

    def forward(self, x: Tensor) -> Tensor:
        return self._call(x)


def _example(
    shapes: TileShapes, descriptor: ImageModelDescriptor, device: torch.device
) -> tuple[Tensor, tuple[dict[int, Any]] | None]:
    """A batch to trace with, and which of its sizes may vary. A size of 1, or two equal ones, would count as fixed."""
    channels = descriptor.input_channels
    if shapes.fixed:
        return torch.rand(shapes.batch, channels, *shapes.most, device=device), None
    step, least, most = shapes.step, max(shapes.least), min(shapes.most)
    side = min(max(_TYPICAL_SIDE.get(device.type, _TYPICAL_SIDE_ELSEWHERE), least), most - step) // step * step
    vertical, horizontal = (
        torch.export.Dim(name, min=low // step, max=high // step)
        for name, low, high in zip(("vertical", "horizontal"), shapes.least, shapes.most, strict=True)
    )
    dynamic = {0: torch.export.Dim("count", min=1, max=shapes.batch), 2: step * vertical, 3: step * horizontal}
    return torch.rand(2, channels, side, side + step, device=device), (dynamic,)


def _strays(
    compiled: Forward, working: WorkingModel, request: Request, descriptor: ImageModelDescriptor, device: torch.device
) -> str | None:
    """Why the package is not what the eager forward is, or None; at a size it was not traced with if it takes one."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, descriptor.input_channels, *request.shapes.least, generator=generator).to(device)
    with torch.inference_mode():
        return disagreement(compiled(x), working.forward(x), request.variant.precision)


def _give_up(store: ArtifactStore, request: Request) -> None:
    """The watchdog's end of a compiler that hangs: this process and those it started."""
    try:
        store.fail(request.id, f"compiling took longer than {request.limit:.0f} s", "model", request.environment)
        for child in psutil.Process().children(recursive=True):
            child.kill()
    finally:
        os._exit(1)
