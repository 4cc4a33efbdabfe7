"""The ways to upscale that are compared: what a user would pick instead of this pack, and this pack at each level.

All take an IMAGE as ComfyUI has it, [B, H, W, 3] float32 0..1 in main memory, and give one back, [B, sH, sW, 3].
"""

from __future__ import annotations

import copy
import importlib.util
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from spandrel import ImageModelDescriptor
from torch import Tensor, nn

from cudaspeed.api.model_info import Forward
from cudaspeed.api.options import LEVELS, Level, Precision, UpscaleOptions
from cudaspeed.api.upstream import architecture_call
from cudaspeed.backends.interface import Engine, Work
from cudaspeed.backends.openvino import OpenVino
from cudaspeed.backends.shapes import TileShapes
from cudaspeed.backends.tensorrt import TensorRt
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.memory import free_host_bytes, is_out_of_memory, measure_cost, working_bytes
from cudaspeed.models.execution import DTYPES
from cudaspeed.models.info import model_info
from cudaspeed.models.precision import fast_precisions, supported_precisions
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.upscale_engine import tune, upscale

from .core_node import core_node

_BATCH = 16  # frames at once, where a way takes several
_TUNED_FOR = (512, 512)
_TUNING_SECONDS = 15.0  # that a compile may go on to look for faster code
_SPLIT_OVERLAP = 16  # pixels that a quarter sees beyond its edge


class Made(NamedTuple):
    """The picture, the precision that most of it was computed in, a word on how, and what was compiled for it."""

    picture: Tensor
    precision: Precision
    how: str = ""
    compiled_bytes: int | None = None


class Setting(NamedTuple):
    """What a way is prepared for: a model in fp32 on the CPU, which it copies, and the type for half precision, None
    where the device has no fast one."""

    model: ImageModelDescriptor
    device: torch.device
    half: Precision | None


class UnavailableError(Exception):
    """This way cannot be gone here. The message says why."""


Upscaler = Callable[[Tensor], Made]
Prepare = Callable[[Setting], Upscaler]


def half_precision(asked: str, device: torch.device) -> Precision | None:
    """The type for half precision: what was asked for, or with "auto" the fastest that `device` has natively."""
    if asked == "auto":
        return next(iter(fast_precisions(device)), None)
    return None if asked == "fp32" else asked  # type: ignore[return-value]  # the command line offers no other


def _half_of(setting: Setting) -> Precision:
    if setting.half is None:
        raise UnavailableError("no half precision that this device computes natively")
    if setting.half not in supported_precisions(setting.model):
        raise UnavailableError(f"{setting.model.architecture.name} does not support {setting.half}")
    return setting.half


# --- without this pack -----------------------------------------------------------------------------------------------


def core(setting: Setting) -> Upscaler:
    """ComfyUI core: tiles of 512 sharing 32, one at a time, fp32."""
    try:
        node = core_node(setting.model, setting.device)
    except ImportError as error:
        raise UnavailableError(str(error)) from error
    return lambda image: Made(node(image).float(), "fp32")


def whole(setting: Setting, half: bool = False, last: bool = False, batch: int = 1, **compiling: Any) -> Upscaler:
    """spandrel's own call on whole pictures, `batch` at a time; compiled by torch where `compiling` says how."""
    precision = _half_of(setting) if half else "fp32"
    ours = _copy(setting, precision, last)
    if compiling:
        ours.model.compile(**compiling)
    return _by_frames(setting, ours, precision, last, batch)


def best_whole(setting: Setting, **compiling: Any) -> Upscaler:
    """As `whole`, in half precision where there is one, channels last."""
    half = setting.half in supported_precisions(setting.model)
    return whole(setting, half, last=True, **compiling)


def split(setting: Setting) -> Upscaler:
    """Whole pictures in half precision, and when memory runs out, quarters of them, and so on."""
    precision = _half_of(setting)
    ours = _copy(setting, precision, last=False)
    return _by_frames(setting, partial(by_quarters, ours, ours.scale), precision, last=False, batch=1)


def by_quarters(forward: Callable[[Tensor], Tensor], scale: int, x: Tensor, overlap: int = _SPLIT_OVERLAP) -> Tensor:
    """`forward(x)` for x [N, C, h, w]; where memory runs out, the same of its quarters, which see `overlap` pixels
    beyond where they are cut and lose what became of these. Raises the error when there is nothing left to quarter."""
    try:
        return forward(x)
    except Exception as error:  # torch has several types for it; what is not a lack of memory goes on up
        if not is_out_of_memory(error) or min(x.shape[2:]) <= 2 * overlap:
            raise
    # here, where the failed forward's tensors are no longer referenced
    if x.is_cuda:
        torch.cuda.empty_cache()
    height, width = x.shape[2:]
    rows = []
    for top, bottom in ((0, height // 2), (height // 2, height)):
        row = []
        for left, right in ((0, width // 2), (width // 2, width)):
            y, x0 = max(0, top - overlap), max(0, left - overlap)
            piece = by_quarters(forward, scale, x[:, :, y : bottom + overlap, x0 : right + overlap], overlap)
            down, along = (top - y) * scale, (left - x0) * scale
            row.append(piece[:, :, down : down + (bottom - top) * scale, along : along + (right - left) * scale])
        rows.append(torch.cat(row, dim=3))
    return torch.cat(rows, dim=2)


def tensorrt(setting: Setting, engine: Engine) -> Upscaler:
    """An engine of TensorRT's. Never run yet: it needs a GPU, and no machine of ours had one."""
    half = setting.half if setting.half in supported_precisions(setting.model) else None
    return by_engine(setting, engine, half or "fp32")


def openvino(setting: Setting, precision: Precision) -> Upscaler:
    """OpenVINO, with `precision` as its hint, which it follows where the processor has it."""
    engine = OpenVino()
    native = precision == "fp32" or precision in fast_precisions(setting.device)
    if not engine.lacks(setting.device) and not native:
        raise UnavailableError(f"this processor has no native {precision}: OpenVINO would compute in fp32")
    return by_engine(setting, engine, precision)


def by_engine(setting: Setting, engine: Engine, precision: Precision) -> Upscaler:
    """An engine of the pack's on whole pictures, built for each size before the first of it."""
    lacks = engine.lacks(setting.device)
    if lacks:
        raise UnavailableError(lacks)
    module = _Forward(_copy(setting, "fp32", last=False))
    made: dict[torch.Size, tuple[Forward, int]] = {}

    def forward(x: Tensor) -> Tensor:
        if x.shape not in made:
            with tempfile.TemporaryDirectory() as folder:
                scratch, file = Path(folder, "scratch"), Path(folder, "engine")
                scratch.mkdir()
                shapes = TileShapes.one(*x.shape[2:])
                engine.build(Work(module, x, shapes, precision, setting.device, scratch), file)
                made[x.shape] = engine.load(file, setting.device), file.stat().st_size
        return made[x.shape][0](x).clamp(0, 1)

    by_frames = _by_frames(setting, forward, "fp32", last=False, batch=1)

    def run(image: Tensor) -> Made:
        picture = by_frames(image).picture
        return Made(picture, precision, compiled_bytes=sum(size for _, size in made.values()))

    return run


class _Forward(nn.Module):
    """spandrel's call for the architecture, which neither pads nor clamps, as a module."""

    def __init__(self, model: ImageModelDescriptor) -> None:
        super().__init__()
        self.model, self._call = model.model, architecture_call(model)

    def forward(self, x: Tensor) -> Tensor:
        return self._call(self.model, x)


def onnxruntime(setting: Setting) -> Upscaler:
    """onnxruntime, on CUDA onnxruntime-gpu, on an exported graph of one size."""
    if importlib.util.find_spec("onnxruntime") is None or importlib.util.find_spec("onnxscript") is None:
        raise UnavailableError("not installed (onnxruntime or onnxruntime-gpu, and onnxscript)")
    runtime = importlib.import_module("onnxruntime")
    provider = "CUDAExecutionProvider" if setting.device.type == "cuda" else "CPUExecutionProvider"
    if provider not in runtime.get_available_providers():
        raise UnavailableError(f"onnxruntime has no {provider} here")
    precision: Precision = "fp16" if setting.half == "fp16" and setting.model.supports_half else "fp32"
    ours = _copy(setting, precision, last=False)
    sessions: dict[torch.Size, Any] = {}
    threads = runtime.SessionOptions()
    threads.intra_op_num_threads = torch.get_num_threads()  # as many as the others have

    def forward(x: Tensor) -> Tensor:
        if x.shape not in sessions:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, "model.onnx")
                torch.onnx.export(ours.model, (x,), file, input_names=["x"], output_names=["y"], dynamo=False)
                sessions[x.shape] = runtime.InferenceSession(str(file), threads, providers=[provider])
        return torch.from_numpy(sessions[x.shape].run(None, {"x": x.cpu().numpy()})[0]).clamp(0, 1)

    return _by_frames(setting, forward, precision, last=False, batch=1)


def _copy(setting: Setting, precision: Precision, last: bool) -> ImageModelDescriptor:
    ours = copy.deepcopy(setting.model).to(setting.device, DTYPES[precision])
    ours.model.to(memory_format=torch.channels_last if last else torch.contiguous_format)
    return ours


def _by_frames(
    setting: Setting, forward: Callable[[Tensor], Tensor], precision: Precision, last: bool, batch: int
) -> Upscaler:
    """`forward` [N, 3, h, w] on the device -> [N, 3, sh, sw], over the frames of a picture."""
    layout, scale = torch.channels_last if last else torch.contiguous_format, setting.model.scale

    def run(image: Tensor) -> Made:
        frames, height, width, channels = image.shape
        _check_room(setting, precision, min(batch, frames) * height * width)
        output = torch.empty(frames, height * scale, width * scale, channels)
        for start in range(0, frames, batch):
            x = image[start : start + batch].permute(0, 3, 1, 2)
            x = x.to(setting.device, DTYPES[precision]).contiguous(memory_format=layout)
            output[start : start + batch].copy_(forward(x).permute(0, 2, 3, 1))
        return Made(output, precision)

    return run


def _check_room(setting: Setting, precision: Precision, pixels: int) -> None:
    """A CPU that runs out of memory raises nothing: the system ends the process."""
    if setting.device.type != "cpu":
        return
    model, free = setting.model, free_host_bytes()
    cost = measure_cost(model.model, architecture_call(model), model_info(model), DTYPES[precision])
    needed = working_bytes(cost, pixels, setting.device)
    if needed > free:
        raise MemoryError(f"out of memory: about {needed / 2**30:.0f} GiB are needed, {free / 2**30:.0f} are free")


# --- this pack -------------------------------------------------------------------------------------------------------


def ours(setting: Setting, level: Level, half: bool, compiled: bool) -> Upscaler:
    """This pack at an optimization level, in fp32 or automatic precision, eager or compiled before the first tile."""
    if half and setting.half is None:
        raise UnavailableError("the same as fp32: no half precision that this device computes natively")
    fast = fast_precisions(setting.device)[:1]
    options = UpscaleOptions(
        precision="fp32" if not half else "auto" if fast == (setting.half,) else setting.half or "auto",
        level=level,
        compile=compiled,
        compile_mode="wait",
        batch_size=_BATCH,
    )
    sessions, context = SessionCache(), StandaloneContext(str(setting.device))
    tune(setting.model, _TUNED_FOR, options, context, sessions)  # as after some pictures

    def run(image: Tensor) -> Made:
        result = upscale(image, setting.model, options, context, sessions)
        settle(sessions, _TUNING_SECONDS)
        report = result.report
        how = f"{report.tiles} of {report.tile[1]}x{report.tile[0]}"
        if report.kernels != "plain" and not report.compiled:
            how += f", {report.kernels}"
        if compiled and not report.compiled:
            how += f", {report.compiling}"
        return Made(result.image, report.precision, how)

    return run


def settle(sessions: SessionCache, seconds: float) -> None:
    """Give the compiling process, which tunes what it has published, so long; then end it, for it would disturb what is
    measured next."""
    until = time.monotonic() + seconds
    while sessions.compiles.busy() and time.monotonic() < until:
        time.sleep(0.2)
    sessions.compiles.stop()


WAYS: dict[str, Prepare] = {
    "core": core,
    "plain-fp32": whole,
    "plain-fp32-last": partial(whole, last=True),
    "plain-half": partial(whole, half=True),
    "plain-half-last": partial(whole, half=True, last=True),
    "compile-default": partial(best_whole, mode="default"),
    "compile-max-autotune": partial(best_whole, mode="max-autotune"),
    "batched-half": partial(whole, half=True, batch=_BATCH),
    "split-half": split,
    **{engine.name: partial(tensorrt, engine=engine) for engine in (TensorRt(for_rtx=True), TensorRt())},
    "onnxruntime": onnxruntime,
    "openvino-f32": partial(openvino, precision="fp32"),
    "openvino-bf16": partial(openvino, precision="bf16"),
    **{
        f"ours-{level}-{'auto' if half else 'fp32'}-{'compiled' if compiled else 'eager'}": partial(
            ours, level=level, half=half, compiled=compiled
        )
        for level in LEVELS
        for half in (False, True)
        for compiled in (False, True)
    },
}
