"""What a run takes of memory, counted before it computes: every item by the formula of the part that takes it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from spandrel import ImageModelDescriptor

from ..api.memory_use import MemoryUse
from ..api.model_info import ModelInfo
from ..devices.backends import has_own_memory
from ..kernels.layers import layers_of
from ..kernels.window_attention import page_bytes
from ..kernels.winograd_modules import transformed_bytes
from ..memory import weights_bytes
from ..models.cuda_graphs import pool_bytes
from ..models.runner import ModelRunner
from ..tiling.blend import strip_bytes
from .download import staging_bytes as staging_of_rows
from .offload import OffloadedWeights
from .scheduler import Schedule
from .upload import staging_bytes as staging_of_frames
from .workload import Workload

_FLOAT = 4  # bytes


@dataclass(frozen=True)
class Setting:
    """Where a run computes, and what it holds there: `forward_bytes` of a forward, `frame_bytes` of frames in work.
    `compiled_bytes` of what was compiled. `streams`: the device copies by itself."""

    device: torch.device
    streams: bool
    forward_bytes: int
    frame_bytes: int
    compiled_bytes: int = 0


def held_by_model(model: ImageModelDescriptor, runner: ModelRunner, device: torch.device) -> MemoryUse:
    """What lies there between forwards, with `runner` as our copy of `model`; and pages of scores, which are as large
    for any picture. Takes milliseconds for deep models."""
    transformed = transformed_bytes(runner.module)
    copy = weights_bytes(runner.module) - transformed
    weights, scores = weights_bytes(model.model), _scores(model, runner, device)
    return MemoryUse(weights=weights, copy=copy, transformed=transformed, scores=scores)


def memory_use(
    held: MemoryUse, runner: ModelRunner, info: ModelInfo, schedule: Schedule, workload: Workload, setting: Setting
) -> MemoryUse:
    """What `workload` takes by `schedule`, with what is `held` by the model anyway."""
    own_memory, on_host = has_own_memory(setting.device), workload.results_on_host
    pixel_bytes = info.out_channels * (runner.mode.memory_dtype.itemsize if setting.streams else _FLOAT)
    row = workload.size[1] * workload.channels.picture * _FLOAT
    if isinstance(runner.offload, OffloadedWeights):
        held = replace(held, copy=runner.offload.device_bytes, transformed=0, waiting=runner.offload.waiting_bytes)
    staging = staging_of_frames(row) + on_host * staging_of_rows(row * info.scale)
    return replace(
        held,
        compiled=setting.compiled_bytes,
        forward=setting.forward_bytes,
        graphs=_graphs(info, schedule, workload, setting) if runner.convolutional and runner.offload is None else 0,
        frames=setting.frame_bytes,
        strips=strip_bytes(schedule.plan, info.scale, pixel_bytes),
        staging=staging if setting.streams else 0,
        result=workload.result_bytes,
        apart=("weights", "waiting", "staging", *["result"] * on_host) if own_memory else (),
    )


def _scores(model: ImageModelDescriptor, runner: ModelRunner, device: torch.device) -> int:
    """The largest pages of our kernels for attention on a CPU; by torch's operations scores are part of the forward."""
    if device.type != "cpu" or runner.mode.kernels == "plain" or runner.convolutional:
        return 0
    attended = filter(None, (kind.attended for kind in layers_of(model.model, model.scale)))
    return max((page_bytes(*sizes, torch.get_num_threads()) for sizes in attended), default=0)


def _graphs(info: ModelInfo, schedule: Schedule, workload: Workload, setting: Setting) -> int:
    """The pool of CUDA graphs, where forwards of the schedule's shape come to be recorded."""
    if setting.device.type != "cuda":
        return 0
    forwards = workload.frames * workload.channels.pictures_per_frame * schedule.plan.count // schedule.batch
    ends = schedule.pixels * _FLOAT * (info.in_channels + info.out_channels * info.scale**2)
    return pool_bytes(setting.forward_bytes + ends, schedule.pixels, forwards)
