"""What a run takes is counted item by item: each by what is really there, and the estimate is their sum."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import zoo
from clocks import new_sessions
from hearing import Host
from spandrel import ImageModelDescriptor
from torch import nn

from cudaspeed.api.memory_use import MemoryUse
from cudaspeed.api.model_info import ModelInfo
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.images.channels import plan_channels
from cudaspeed.kernels import window_attention
from cudaspeed.memory import weights_bytes
from cudaspeed.models.execution import ExecutionMode
from cudaspeed.models.runner import ModelRunner
from cudaspeed.pipeline.frame_io import TensorSink, TensorSource
from cudaspeed.pipeline.memory_use import Setting, held_by_model, memory_use
from cudaspeed.pipeline.passes import PassRunner
from cudaspeed.pipeline.scheduler import Schedule
from cudaspeed.pipeline.workload import Workload, workload_of, workload_of_one
from cudaspeed.tiling.blend import TileBlender
from cudaspeed.tiling.plan import plan_tiles
from cudaspeed.upscale_engine import memory_of, upscale

CPU, CUDA, MB = torch.device("cpu"), torch.device("cuda"), 1 << 20
INFO = ModelInfo("toy", scale=2, in_channels=3, out_channels=3, convolutional=True)


def runner_of(model: ImageModelDescriptor, **mode: Any) -> ModelRunner:
    mode = {"precision": "fp32", "autocast": False, "channels_last": False, **mode}
    return ModelRunner(model, ExecutionMode(**mode))


def use_of(device: torch.device, max_side: int | None = None, frames: int = 1, pixels: int = 96 * 80) -> MemoryUse:
    """Of frames of 96x80, on a device that copies by itself unless it is a CPU."""
    runner = runner_of(zoo.compact(), precision="fp16")
    schedule = Schedule(plan_tiles(80, 96, INFO, max_side=max_side), batch=1)
    setting = Setting(device, device.type != "cpu", 50 * MB, frame_bytes=7)
    workload = Workload(frames, (80, 96), plan_channels(3, INFO), 0, True, result_bytes=frames * 160 * 192 * 3 * 2)
    return memory_use(MemoryUse(weights=11, copy=5), runner, INFO, schedule, workload, setting)


def test_what_computes_in_main_memory_has_nothing_apart() -> None:
    assert use_of(torch.device("mps")).apart == use_of(CPU).apart == ()
    assert use_of(CUDA).apart


@pytest.mark.parametrize(("device", "held"), [("mps", True), ("cpu", True), ("cuda", False)])
def test_a_result_in_main_memory_leaves_less_for_what_computes_there(device: str, held: bool) -> None:
    context = SimpleNamespace(device=torch.device(device), output_device=CPU, output_dtype=torch.float32)
    workload = workload_of_one((80, 96), INFO, cast(Any, context))
    assert workload.held_bytes == workload.result_bytes * held
    source, sink = TensorSource(torch.rand(2, 8, 8, 3)), TensorSink(torch.empty(2, 16, 16, 3))
    assert workload_of(source, sink, plan_channels(3, INFO), cast(Any, context)).held_bytes == sink.held_bytes * held


def test_frames_beside_the_result_count_where_main_memory_is_computed_in() -> None:
    source = TensorSource(torch.rand(1, 8, 8, 3))

    def beside(device: str) -> int:
        monitor = SimpleNamespace(device=torch.device(device), output_device=CPU, output_dtype=torch.float32)
        known = SimpleNamespace(bytes_of_frame=lambda *_: (100, 23))
        session = SimpleNamespace(known=known, options=SimpleNamespace(batch_size=1))
        prepared = cast(Any, (session, plan_channels(3, INFO)))
        planned = cast(Any, SimpleNamespace(size=(8, 8), result=(16, 16)))
        return PassRunner([planned], source, lambda _: prepared, cast(Any, monitor)).bytes_beside()

    assert [beside(name) for name in ("cpu", "mps", "cuda")] == [123, 123, 0]


def test_a_device_in_main_memory_has_frames_there_and_copies_of_them() -> None:
    model, asked, taken = zoo.compact(), UpscaleOptions(precision="fp32", compile=False), {}
    for kind in ("cpu", "mps"):
        context = StandaloneContext("cpu")
        context.device, context.make_resident = torch.device(kind), lambda *_: None
        taken[kind] = memory_of(model, (40, 60), asked, context, new_sessions())[0].frames
    assert taken["mps"] == taken["cpu"] + 40 * 60 * 3 * 4


def test_the_weights_the_copy_and_what_is_transformed_are_all_that_the_model_holds() -> None:
    model = zoo.compact()
    plain, half = (held_by_model(model, runner_of(model, precision=some), CPU) for some in ("fp32", "fp16"))
    assert plain.weights == plain.copy == weights_bytes(model.model)
    assert (half.copy, half.transformed) == (plain.copy // 2, 0)
    runner = runner_of(model, channels_last=True, kernels="winograd")
    found = held_by_model(model, runner, CPU)
    assert found.copy + found.transformed == weights_bytes(runner.module)
    convolutions = [part for part in model.model.modules() if isinstance(part, nn.Conv2d)]
    wide = sum(4 * 36 * (-(-part.in_channels // 8)) * 8 * (-(-part.out_channels // 8)) * 8 for part in convolutions)
    assert found.transformed == wide


def test_pages_of_scores_are_what_the_kernels_are_given() -> None:
    model = zoo.swinir()
    runner = runner_of(model, kernels="attention")
    heads, keys, channels = 2, 64, 6
    query = torch.rand(4, heads, keys, channels)
    scratch: list[int] = []
    really = torch.empty

    def empty(*shape: Any, **more: Any) -> torch.Tensor:
        if more.get("dtype") == torch.uint8:
            scratch.append(shape[0])
        return really(*shape, **more)

    if not window_attention.ready():
        pytest.skip("there are no kernels here")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch, "empty", empty)
        window_attention.attend(query, query, query, [])
    expected = held_by_model(model, runner, CPU).scores / torch.get_num_threads()
    assert scratch[0] <= expected <= 2 * scratch[0]
    assert held_by_model(model, runner_of(model), CPU).scores == held_by_model(model, runner, CUDA).scores == 0


def test_on_a_cpu_nothing_is_staged_and_all_of_it_is_main_memory() -> None:
    use = use_of(CPU, frames=3)
    assert (use.staging, use.graphs, use.strips, use.apart) == (0, 0, 0, ())
    assert use.result == 3 * 160 * 192 * 3 * 2
    assert use.on_device == use.total == 11 + 5 + 50 * MB + 7 + use.result


def test_on_a_device_of_its_own_weights_buffers_and_results_are_apart() -> None:
    use = use_of(CUDA)
    assert use.staging == 4 * (8 + 16) * MB
    assert use.on_device == 5 + 50 * MB + 7
    assert str(use) == "52 MB and 101 MB of main memory"


@pytest.mark.parametrize(("frames", "recorded"), [(1, False), (7, False), (8, True)])
def test_cuda_graphs_count_where_they_come_to_be_recorded(frames: int, recorded: bool) -> None:
    ends = 4 * 96 * 80 * (3 + 3 * 4)
    assert use_of(CUDA, frames=frames).graphs == (50 * MB + ends if recorded else 0)


@pytest.mark.parametrize("size", [(96, 80), (200, 40), (40, 200)])
def test_strips_are_what_the_blender_holds(size: tuple[int, int]) -> None:
    plan = plan_tiles(*size, INFO, max_side=48)
    blender, held = TileBlender(plan, 2), 0
    for row in range(len(plan.rows.origins)):
        for column in range(len(plan.columns.origins)):
            blender.add(row, column, torch.zeros(3, 2 * plan.rows.tile, 2 * plan.columns.tile))
            kept = (blender._strip, blender._carry)
            held = max(held, sum(tensor.nbytes for tensor in kept if tensor is not None))
    schedule = Schedule(plan, batch=1)
    setting = Setting(CPU, False, 0, 0)
    workload = Workload(1, size, plan_channels(3, INFO), 0, True, result_bytes=0)
    counted = memory_use(MemoryUse(), runner_of(zoo.compact()), INFO, schedule, workload, setting).strips
    assert held <= counted <= max(2 * held, 4 * 3 * 4 * plan.rows.tile * size[1] * 2)


def test_the_report_s_estimate_is_the_sum_and_the_summary_tells_it() -> None:
    host = Host()
    report = upscale(
        zoo.photograph(64, 48), zoo.toy(), UpscaleOptions(compile=False, precision="fp32"), host, new_sessions()
    ).report
    assert report.peak_bytes == report.memory.total == sum(report.memory.items.values())
    assert report.memory.result == 128 * 96 * 3 * 4
    assert report.memory.weights == 4


def test_what_a_run_would_take_is_what_it_takes_and_asking_changes_nothing() -> None:
    model, options = zoo.compact(), UpscaleOptions(compile=False, precision="fp32", tile=64)
    use, how = memory_of(model, (100, 90), options, StandaloneContext("cpu"), new_sessions())
    before = new_sessions().profile(model, StandaloneContext("cpu")).known
    report = upscale(zoo.photograph(100, 90), model, options, StandaloneContext("cpu"), new_sessions()).report
    assert before.revision == 0
    assert report.memory == use
    (height, width), kernels = report.tile, f" {report.kernels}" * (report.kernels != "plain")
    assert how == f"{report.precision}{kernels}, {report.tiles} tiles of {width}x{height}"
