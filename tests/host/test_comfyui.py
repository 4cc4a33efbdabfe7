"""Our host file inside ComfyUI: what a run loads, what goes when it is unloaded, and the switches that mean us.

docs/memory.md has the switches in a table, a row each of which there is a test here.
"""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from clocks import new_sessions
from comfyui import GIGABYTE, ComfyUI, InterruptProcessingError, ModelPatcher
from lagging import LaggingDevice
from processors import fast_at_bf16
from spandrel import ImageModelDescriptor

from cudaspeed import nodes
from cudaspeed.api.errors import BadImageError, BadOptionError
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host import comfyui, context, language
from cudaspeed.host.comfyui import ComfyContext
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.models.cuda_graphs import CudaGraphExecutor
from cudaspeed.models.execution import EagerExecutor, ExecutionMode
from cudaspeed.models.precision import considered
from cudaspeed.models.runner import ModelRunner, RunnerCache
from cudaspeed.models.study import Answer
from cudaspeed.pipeline import output, residency, session
from cudaspeed.pipeline.modes import ModeChooser
from cudaspeed.pipeline.offload import OffloadedWeights
from cudaspeed.pipeline.residency import bring
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.pipeline.studies import StudyRunner
from cudaspeed.storage.heap import TRIMMER
from cudaspeed.upscale_engine import let_go, upscale

FP32 = ExecutionMode("fp32", autocast=False, channels_last=True)
NO_ANSWER = Answer(torch.zeros(1, 3, 8, 8), 1.0)
CARD, CPU = torch.device("cuda", 0), torch.device("cpu")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch):
    """`started(cpu=True)`: ComfyUI with this switch."""
    return lambda **switches: ComfyUI(**switches).enter(monkeypatch)


class Later:
    """The moment, a second later, when memory is given back to the system; `asked` tells for what."""

    def __init__(self) -> None:
        self.asked: list[Callable[[], None] | None] = []

    def soon(self, let_go: Callable[[], None] | None = None) -> bool:
        self.asked.append(let_go)
        return True

    def comes(self) -> None:
        while self.asked:
            let_go = self.asked.pop()
            if let_go:
                let_go()


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Later:
    later = Later()
    monkeypatch.setattr(TRIMMER, "soon", later.soon)
    return later


def run(model: ImageModelDescriptor, sessions: SessionCache, **options: Any):
    return upscale(zoo.photograph(24, 24), model, UpscaleOptions(**options), ComfyContext(model), sessions)


def tensors_of(sessions: SessionCache, model: ImageModelDescriptor) -> list[weakref.ref[torch.Tensor]]:
    """The tensors of our copy."""
    runner = sessions.runners._by_module[model.model]
    return [weakref.ref(tensor) for tensor in (*runner.module.parameters(), *runner.module.buffers())]


# --- what stays, and when it leaves ----------------------------------------------------------------------------------


def test_a_model_stays_for_the_next_prompt_and_nothing_of_ours_is_alive_after_it_was_unloaded(
    started, later: Later
) -> None:
    comfyui, sessions, model = started(cpu=True), new_sessions(), zoo.compact()
    first = run(model, sessions)
    ours = tensors_of(sessions, model)
    run(model, sessions)
    comfyui.prompt_ends()
    later.comes()
    assert ours
    assert all(tensor() is not None for tensor in ours), "the next prompt begins with it"
    gc.disable()  # it has not to wait for it
    try:
        comfyui.unload_all_models()
        assert later.asked, "what the C library keeps of it goes, too"
        later.comes()
        assert not any(tensor() is not None for tensor in ours), "although the caller's model is still there"
    finally:
        gc.enable()
    assert torch.equal(run(model, sessions).image, first.image)


def test_several_models_are_unloaded_in_one_go(started, later: Later) -> None:
    comfyui, sessions, models = started(cpu=True), new_sessions(), [zoo.compact(), zoo.esrgan(), zoo.span()]
    ours = []
    for model in models:
        run(model, sessions)
        ours += tensors_of(sessions, model)
    assert len(comfyui.loaded) == 3
    comfyui.unload_all_models()
    later.comes()
    assert not comfyui.loaded
    assert not any(tensor() is not None for tensor in ours)


def test_a_model_that_was_loaded_again_meanwhile_stays(started, later: Later) -> None:
    comfyui, sessions, model = started(cpu=True), new_sessions(), zoo.compact()
    run(model, sessions)
    ours = tensors_of(sessions, model)
    comfyui.unload_all_models()
    run(model, sessions)
    later.comes()
    assert all(tensor() is not None for tensor in ours)


def test_memory_goes_back_when_a_model_goes_that_was_unloaded_before(started, later: Later) -> None:
    comfyui, sessions, model = started(cpu=True), new_sessions(), zoo.compact()
    run(model, sessions)
    comfyui.unload_all_models()
    later.comes()
    del model
    gc.collect()
    assert later.asked


def test_memory_goes_back_after_an_interrupt(started, later: Later) -> None:
    comfyui, sessions, model = started(cpu=True), new_sessions(), zoo.compact()
    run(model, sessions)
    assert not later.asked
    comfyui.interrupted = True
    with pytest.raises(InterruptProcessingError):
        run(model, sessions)
    assert later.asked


def test_a_copy_that_leaves_a_card_comes_back_from_main_memory(started) -> None:
    comfyui, model = started(), zoo.compact()
    cache = RunnerCache()
    runner = cache.get(model, FP32)
    ComfyContext(model).make_resident(runner, GIGABYTE)
    patcher = comfyui.loaded[0].model
    assert comfyui.requests == [GIGABYTE], "what the forward takes is what the host makes room for"
    assert patcher.offload_device == CPU
    assert patcher.loaded
    comfyui.unload_all_models()
    assert cache.find(model, FP32) is runner
    ComfyContext(model).make_resident(runner, 0)
    assert [entry.model for entry in comfyui.loaded] == [patcher]


def test_unload_models_lets_go_of_what_left_the_card_for_main_memory(started, later: Later) -> None:
    """Which the host alone cannot tell from making room for another model."""
    comfyui, sessions, model = started(), new_sessions(), zoo.compact()
    ComfyContext(model).make_resident(sessions.runners.get(model, FP32), GIGABYTE)
    ours = tensors_of(sessions, model)
    told: list[str] = []
    let_go(lambda freed: told.append(str(freed)), sessions)
    comfyui.unload_all_models()
    assert sessions.runners.find(model, FP32) is not None and not told, "the host is in the midst of its list"
    later.comes()
    assert told == ["1 copy of a model (0 MB on cpu)"]
    assert sessions.runners.find(model, FP32) is None
    gc.collect()
    assert not any(tensor() is not None for tensor in ours)


# --- weights that do not fit -----------------------------------------------------------------------------------------

FORWARD = 1000  # bytes


def brought(
    model: ImageModelDescriptor, monkeypatch: pytest.MonkeyPatch, cache: RunnerCache | None = None
) -> ModelRunner:
    """Our copy, as a run brings it to the card, which is the CPU but for its name."""
    monkeypatch.setattr(residency, "stream_device", lambda _: LaggingDevice())
    monkeypatch.setattr(residency, "_place_of", lambda _: torch.device("cuda", 0))
    monkeypatch.setattr(residency.torch, "empty", lambda *sizes, device=None, **more: EMPTY(*sizes, **more))
    runner = (cache or RunnerCache()).get(model, FP32)
    bring(ComfyContext(model), runner, FORWARD)
    return runner


EMPTY = torch.empty
PICTURE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("switch", [{}, {"lowvram": True}, {"highvram": True}], ids=str)
def test_weights_that_fit_are_brought_as_ever(
    started, monkeypatch: pytest.MonkeyPatch, switch: dict[str, bool]
) -> None:
    comfyui = started(**switch)
    runner = brought(zoo.compact(), monkeypatch)
    assert comfyui.loaded[0].model.model is runner.module
    assert (comfyui.requests, comfyui.asked_for) == ([FORWARD], [])


@pytest.mark.parametrize("switch", [{}, {"lowvram": True}], ids=str)
def test_others_are_asked_to_make_way_before_weights_come_in_parts(
    started, monkeypatch: pytest.MonkeyPatch, switch: dict[str, bool]
) -> None:
    comfyui, model = started(reserve_vram=0, **switch), zoo.deep()
    weights = ModelRunner(model, FP32).bytes
    comfyui.free, comfyui.others = weights // 2, GIGABYTE
    whole = brought(model, monkeypatch)
    assert whole.offload is None
    assert comfyui.asked_for == [weights + FORWARD]
    comfyui.free, comfyui.others = weights // 2, 0
    runner = brought(model, monkeypatch)
    patcher = comfyui.loaded[0].model
    assert runner.offload is not None
    assert patcher.model is runner.offload.module
    size = sum(tensor.nbytes for tensor in patcher.model.state_dict().values())
    assert weights // 4 < size <= weights // 2 - FORWARD, "what the host counts"
    assert torch.equal(runner.forward(PICTURE), whole.forward(PICTURE))


def test_what_is_there_of_a_model_is_not_made_to_give_way_for_the_rest_of_it(started, monkeypatch) -> None:
    comfyui, model, cache = started(reserve_vram=0), zoo.deep(), RunnerCache()
    comfyui.free = ModelRunner(model, FP32).bytes // 2
    runner = brought(model, monkeypatch, cache)
    runner.forward(PICTURE)
    assert isinstance(runner.offload, OffloadedWeights)
    there, loaded, size = runner.offload.module, comfyui.loaded[0], runner.offload.held_bytes
    comfyui.free -= size
    assert brought(model, monkeypatch, cache) is runner
    assert (runner.offload.module, comfyui.loaded) == (there, [loaded])
    assert runner.offload.held_bytes == size
    comfyui.free = GIGABYTE
    assert brought(model, monkeypatch, cache).offload is None, "now there is room for all of it"
    assert [entry.model.model for entry in comfyui.loaded] == [runner.module]
    comfyui.free = runner.bytes // 2
    assert brought(model, monkeypatch, cache).offload is not None, "and now there is not"
    assert [entry.model.model for entry in comfyui.loaded] == [runner.offload.module]
    assert torch.equal(runner.forward(PICTURE), ModelRunner(model, FP32).forward(PICTURE))


def test_novram(started, monkeypatch: pytest.MonkeyPatch) -> None:
    comfyui, model = started(novram=True), zoo.deep()
    runner = brought(model, monkeypatch)
    assert runner.offload is not None
    assert comfyui.loaded[0].model.model is runner.offload.module
    size = sum(tensor.nbytes for tensor in runner.offload.module.state_dict().values())
    assert size < runner.bytes // 4, "the least, though there is room for all"
    assert torch.equal(runner.forward(PICTURE), ModelRunner(model, FP32).forward(PICTURE))


def test_after_an_unload_nothing_is_on_the_card_or_pinned(started, monkeypatch, later: Later) -> None:
    comfyui, model = started(novram=True), zoo.deep()
    runner = brought(model, monkeypatch)
    result, offload = runner.forward(PICTURE), runner.offload
    assert isinstance(offload, OffloadedWeights)
    assert offload.held_bytes
    comfyui.unload_all_models()
    later.comes()
    assert offload.held_bytes == 0
    assert not any(len(block.memory) for block in offload._blocks)
    assert torch.equal(runner.forward(PICTURE), result)


def test_a_model_in_parts_that_stays_on_the_card_is_let_go_of(started, monkeypatch, later: Later) -> None:
    comfyui, model, cache = started(highvram=True, reserve_vram=0), zoo.deep(), RunnerCache()
    comfyui.free = ModelRunner(model, FP32).bytes // 2
    assert brought(model, monkeypatch, cache).offload is not None
    comfyui.unload_all_models()
    later.comes()
    assert cache.find(model, FP32) is None


# --- switches --------------------------------------------------------------------------------------------------------


def test_cpu(started) -> None:
    started(cpu=True)
    context = ComfyContext(zoo.compact())
    assert context.device == context.output_device == CPU
    assert context.free_bytes() == 8 * GIGABYTE, "nothing is reserved for a desktop in main memory"


@pytest.mark.parametrize("switch", ["lowvram", "novram", "highvram", "gpu_only"])
def test_the_whole_model_is_on_the_card_whatever_its_memory_is_called(started, switch: str) -> None:
    started(**{switch: True})
    model = zoo.compact()
    runner, context = ModelRunner(model, FP32), ComfyContext(model)
    context.make_resident(runner, 0)
    assert context.device == CARD
    assert isinstance(runner.residence, ModelPatcher)
    assert runner.residence.loaded == {name for name, _ in runner.module.named_modules()}


@pytest.mark.parametrize("switch", ["highvram", "gpu_only"])
def test_a_model_that_stays_on_the_card_is_let_go_of_when_it_is_unloaded(started, later: Later, switch: str) -> None:
    comfyui, model, cache = started(**{switch: True}), zoo.compact(), RunnerCache()
    ComfyContext(model).make_resident(cache.get(model, FP32), 0)
    assert comfyui.loaded[0].model.offload_device == CARD
    comfyui.unload_all_models()
    later.comes()
    assert cache.find(model, FP32) is None


def test_gpu_only(started) -> None:
    started(gpu_only=True)
    assert ComfyContext(zoo.compact()).output_device == CARD
    started()
    assert ComfyContext(zoo.compact()).output_device == CPU


@pytest.mark.parametrize(("switches", "reserved"), [({}, 400 << 20), ({"reserve_vram": 2}, 2 * GIGABYTE)])
def test_reserve_vram(started, switches: dict[str, int], reserved: int) -> None:
    comfyui = started(**switches)
    context = ComfyContext(zoo.compact())
    assert context.free_bytes() == 8 * GIGABYTE - reserved
    comfyui.free = reserved // 2
    assert context.free_bytes() == 0


def test_disable_smart_memory(started, later: Later) -> None:
    comfyui, sessions, model = started(cpu=True, disable_smart_memory=True), new_sessions(), zoo.compact()
    run(model, sessions)
    ours = tensors_of(sessions, model)
    comfyui.prompt_ends()
    later.comes()
    assert not comfyui.loaded
    assert not any(tensor() is not None for tensor in ours)


def test_force_fp32(started, monkeypatch: pytest.MonkeyPatch) -> None:
    fast_at_bf16(monkeypatch)
    model = zoo.compact()
    started(cpu=True, force_fp32=True)
    assert run(model, new_sessions()).report.precision.startswith("fp32")
    assert considered("auto", model, CPU, ComfyContext(model).switches.precisions) == ["fp32"]
    started(cpu=True)
    assert considered("auto", model, CPU, ComfyContext(model).switches.precisions) == ["bf16", "fp32"]


def test_a_precision_that_is_asked_for_in_the_node_is_used_all_the_same(started) -> None:
    model = zoo.compact()
    started(cpu=True, force_fp32=True)
    assert run(model, new_sessions(), precision="bf16").report.precision.startswith("bf16")


def test_force_fp16(started) -> None:
    model = zoo.compact()
    started(force_fp16=True)
    assert considered("auto", model, CARD, ComfyContext(model).switches.precisions) == ["fp16", "fp32"]
    started(cpu=True, force_fp16=True)
    assert ComfyContext(model).switches.precisions is None, "a CPU emulates it; ComfyUI does not use it there either"


@pytest.mark.parametrize(
    ("switches", "dtype"),
    [
        ({}, torch.float32),
        ({"fp16_intermediates": True}, torch.float16),
        ({"bf16_intermediates": True}, torch.bfloat16),
    ],
)
def test_intermediates(started, switches: dict[str, bool], dtype: torch.dtype) -> None:
    sessions, model = new_sessions(), zoo.compact()
    started(cpu=True, **switches)
    image = run(model, sessions, precision="fp32").image
    assert image.dtype == dtype
    started(cpu=True)
    assert torch.equal(image, run(model, sessions, precision="fp32").image.to(dtype))


def ways_on_a_card(model: ImageModelDescriptor) -> list[str]:
    """The kernels of those ways to compute that a run there would like to compare."""
    sessions, context = new_sessions(), ComfyContext(model)
    chooser = ModeChooser(
        model, UpscaleOptions(precision="fp32"), context, sessions, StudyRunner(model, context, sessions)
    )
    chooser.choose(1 << 16, lambda: None)
    return [ask.mode.kernels for study in chooser.studies for ask in [next(study.steps), study.steps.send(NO_ANSWER)]]


@pytest.mark.parametrize("switch", ["use_split_cross_attention", "use_quad_cross_attention"])
def test_attention_that_is_not_torchs(started, switch: str) -> None:
    model = zoo.swinir()
    for usual in ("use_pytorch_cross_attention", "use_sage_attention", "use_flash_attention"):
        started(card="mps", **{usual: True})
        assert ways_on_a_card(model) == ["plain", "attention"]
    started(card="mps", **{switch: True})
    assert ways_on_a_card(model) == []


@pytest.mark.parametrize("off", [False, True])
def test_disable_cuda_graphs(started, monkeypatch: pytest.MonkeyPatch, off: bool) -> None:
    asked: list[bool] = []
    executor = ModelRunner.executor

    def noting(runner: ModelRunner, device: torch.device, graphs: bool = True):
        asked.append(graphs)
        return executor(runner, device, graphs)

    monkeypatch.setattr(ModelRunner, "executor", noting)
    started(cpu=True, disable_cuda_graphs=off)
    run(zoo.compact(), new_sessions())
    assert {*asked} == {not off}
    kind = CudaGraphExecutor if not off else EagerExecutor
    assert type(executor(ModelRunner(zoo.compact(), FP32), CARD, not off)) is kind


@pytest.mark.parametrize("off", [False, True])
def test_disable_pinned_memory(started, monkeypatch: pytest.MonkeyPatch, off: bool) -> None:
    model, asked = zoo.compact(), list[int]()
    monkeypatch.setattr(output, "may_be_pinned", lambda size, free: bool(asked.append(size)))
    monkeypatch.setattr(session, "stream_device", LaggingDevice)
    started(disable_pinned_memory=off)
    output.allocate_output((1, 16, 16, 3), ComfyContext(model), beside=0)
    assert bool(asked) is not off
    started(cpu=True, disable_pinned_memory=off)
    streams = session.Session(model, UpscaleOptions(), ComfyContext(model), new_sessions()).streams
    assert (streams is None) is off


def test_nothing_is_asked_for_outside() -> None:
    switches = StandaloneContext("cpu").switches
    assert switches.precisions is None
    assert switches.torch_attention
    assert switches.cuda_graphs
    assert switches.pinned_memory


def speaking_to(monkeypatch: pytest.MonkeyPatch, client: str | None) -> list[tuple[str, str]]:
    """A server with a page `client`, while node 7 executes; what it sends of texts, (node, text)."""
    sent: list[tuple[str, str]] = []
    server = SimpleNamespace(client_id=client, send_progress_text=lambda text, node: sent.append((node, text)))
    for name, content in {
        "server": {"PromptServer": SimpleNamespace(instance=server)},
        "comfy_execution": {},
        "comfy_execution.utils": {"get_executing_context": lambda: SimpleNamespace(node_id="7")},
    }.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    return sent


def test_what_was_done_stays_on_the_node_of_a_quick_run(started, monkeypatch: pytest.MonkeyPatch) -> None:
    started(cpu=True)
    sent = speaking_to(monkeypatch, None)
    report = run(zoo.compact(), new_sessions(), precision="fp32").report
    assert sent[-1][0] == "7"
    assert sent[-1][1].startswith("24x24 -> 48x48, fp32, one piece, ")
    assert sent[-1][1] == report.summary


def test_an_error_is_said_on_the_node_before_it_is_raised(started, monkeypatch: pytest.MonkeyPatch) -> None:
    started(cpu=True)
    monkeypatch.setattr(context, "inside_comfyui", lambda: True)
    sent = speaking_to(monkeypatch, None)
    node = nodes.UpscaleImageCUDAspeed()
    with pytest.raises(BadImageError, match="5 channels") as raised:
        node.upscale(zoo.compact(), torch.rand(1, 8, 8, 5))
    assert sent[-1] == ("7", str(raised.value))
    with pytest.raises(BadOptionError, match="batch size is 40") as refused:
        node.upscale(zoo.compact(), torch.rand(1, 8, 8, 3), batch_size=40)
    assert sent[-1] == ("7", str(refused.value))


def test_a_lack_of_memory_is_said_on_the_node_and_what_has_no_words_is_not(started, monkeypatch) -> None:
    started(cpu=True)
    sent = speaking_to(monkeypatch, None)
    with pytest.raises(MemoryError), context.errors_said():
        raise MemoryError("/m/a.pth: there is no memory for the model; close other programs")
    assert sent == [("7", "/m/a.pth: there is no memory for the model; close other programs")]
    with pytest.raises(MemoryError), context.errors_said():
        raise MemoryError
    assert len(sent) == 1, "the page would show nothing"


def test_an_error_that_goes_up_through_several_of_our_functions_is_said_once(started, monkeypatch) -> None:
    started(cpu=True)
    sent = speaking_to(monkeypatch, None)
    with pytest.raises(BadOptionError), context.errors_said(), context.errors_said():
        raise BadOptionError("crf is 99")
    assert sent == [("7", "crf is 99")]


def test_a_name_that_utf8_cannot_write_is_said_as_far_as_it_can(started, monkeypatch) -> None:
    """ComfyUI writes texts in UTF-8, and a file on Linux may be called anything."""
    started(cpu=True)
    sent = speaking_to(monkeypatch, None)
    comfyui.say_on_node("caf\udce9.pth: x2")
    ((_, text),) = sent
    assert text.encode("utf-8").decode() == "caf?.pth: x2"


def test_pictures_are_made_where_a_page_looks_and_its_user_wants_them(started, monkeypatch, tmp_path) -> None:
    started(cpu=True)
    monkeypatch.setattr(comfyui, "setting", lambda name, usual: usual)
    model = zoo.compact()
    assert not ComfyContext(model).looked_at, "nothing speaks to pages"
    speaking_to(monkeypatch, None)
    assert not ComfyContext(model).looked_at, "a program asked, no page"
    speaking_to(monkeypatch, "a page")
    assert ComfyContext(model).looked_at
    monkeypatch.setattr(comfyui, "setting", lambda name, usual: {"CUDAspeed.Preview": False}[name])
    assert not ComfyContext(model).looked_at


def test_pictures_on_the_way_are_shown_beside_the_bar_which_stays_where_it_is(started) -> None:
    host = started(cpu=True)
    page = ComfyContext(zoo.compact())
    page.progress(3, 4)
    page.show(np.zeros((4, 6, 3), np.uint8))
    (before, total, nothing), (value, most, (kind, picture, side)) = host.told
    assert (before, total, nothing) == (value, most, None)
    assert (kind, picture.size) == ("JPEG", (6, 4))
    assert side >= 256


def test_what_is_said_is_said_in_the_users_language(started, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, str]] = []
    server = SimpleNamespace(send_progress_text=lambda text, node: told.append((text, node)))
    executing = SimpleNamespace(get_executing_context=lambda: SimpleNamespace(node_id="7"))
    started()
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=server)))
    monkeypatch.setitem(sys.modules, "comfy_execution", SimpleNamespace(utils=executing))
    monkeypatch.setitem(sys.modules, "comfy_execution.utils", executing)
    context = ComfyContext(zoo.compact())
    for spoken in ("en", "zh"):
        monkeypatch.setattr(language, "language", lambda spoken=spoken: spoken)
        context.say("tile 3/5, 8 s left")
    assert told == [("tile 3/5, 8 s left", "7"), ("分块 3/5，剩余 8 s", "7")]
