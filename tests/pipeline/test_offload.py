"""Weights that come block by block: the same bits, within the limit, whatever the model does."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import zoo
from clocks import new_sessions
from compilers import Compilers
from lagging import LaggingDevice
from spandrel import ImageModelDescriptor
from torch import Tensor, nn

from cudaspeed import compile_cache
from cudaspeed.api.context import Resident, Switches
from cudaspeed.api.errors import OutOfMemoryError
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.api.report import UpscaleResult
from cudaspeed.api.upstream import TorchDispatchMode, tree_leaves
from cudaspeed.compile_cache import CompileCache
from cudaspeed.devices.pinned import PinnedMemory
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.kernels import winograd
from cudaspeed.models.execution import ExecutionMode
from cudaspeed.models.info import model_info
from cudaspeed.models.runner import ModelRunner
from cudaspeed.models.weight_use import use_of_weights, weights_of
from cudaspeed.pipeline import residency, session, streams
from cudaspeed.pipeline.offload import OffloadedWeights
from cudaspeed.pipeline.residency import COMES_IN_PARTS, NOTHING_STAYS
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.pipeline.streams import CudaDevice
from cudaspeed.upscale_engine import upscale

FP32 = ExecutionMode("fp32", False, False)
MODELS: dict[str, tuple[Callable[[], ImageModelDescriptor], ExecutionMode]] = {
    "convolutional": (zoo.compact, FP32),
    "dense blocks": (zoo.esrgan, FP32),
    "window attention": (zoo.swinir, FP32),
    "channel attention": (zoo.rcan_unshuffle, FP32),
    "folded": (zoo.span, FP32),
    "groups": (zoo.fdat, FP32),
    "branches": (zoo.realcugan, FP32),
    "channels last": (zoo.esrgan, ExecutionMode("fp32", False, True)),
    "half precision": (zoo.compact, ExecutionMode("bf16", False, True)),
    "autocast": (zoo.swinir, ExecutionMode("bf16", True, False)),
    "winograd kernels": (zoo.deep, ExecutionMode("fp32", False, True, "winograd")),
    "fused kernels": (zoo.esrgan, ExecutionMode("fp32", False, True, "fused")),
    "attention kernels": (zoo.swinir, ExecutionMode("fp32", False, False, "attention")),
}


def offloaded(runner: ModelRunner, device: LaggingDevice, limit: int = 0) -> OffloadedWeights:
    use = use_of_weights(runner.module, runner.forward, runner.info)
    found = OffloadedWeights(runner.module, runner.forward, use, device)
    found.keep_within(limit)
    return found


def picture(runner: ModelRunner, side: int = 32) -> Tensor:
    return torch.rand(1, runner.info.in_channels, side, side, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=MODELS)
def runner(request: pytest.FixtureRequest, tmp_path: Path) -> ModelRunner:
    make, mode = MODELS[request.param]
    if mode.kernels == "winograd" and not winograd.prepare(tmp_path):
        pytest.skip("there are no kernels here")
    return ModelRunner(make(), mode)


@pytest.mark.parametrize("share", [0.0, 0.7])
def test_the_bits_are_those_of_weights_that_are_all_there(runner: ModelRunner, share: float) -> None:
    some = [picture(runner), picture(runner, 48)]
    with torch.inference_mode():
        there = [runner.forward(x) for x in some]
        weights = offloaded(runner, LaggingDevice(), int(share * runner.bytes))
        for _ in range(2):
            for x, y in zip(some, there, strict=True):
                assert torch.equal(weights.forward(x), y)


def on_device(weights: OffloadedWeights, runner: ModelRunner) -> int:
    """Bytes of the memory there, after it was seen that no weight lies anywhere but there or at home."""
    there = weights._resident.memory
    assert there is not None
    return there.nbytes


@pytest.mark.parametrize("share", [0.0, 0.4, 0.8])
def test_no_more_than_the_limit_is_on_the_device(share: float) -> None:
    """Of all that computes, weights lie in the one piece of memory there, or they are not computed with."""
    runner = ModelRunner(zoo.deep(), FP32)
    limit = max(int(share * runner.bytes), least_of(runner))
    weights = offloaded(runner, LaggingDevice(), limit)
    read: list[int] = []

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            given = () if func is torch.ops.aten.copy_.default else tree_leaves((args, kwargs))  # but on the way
            read.extend(x.nbytes for x in given if isinstance(x, Tensor) and x.untyped_storage().data_ptr() in homes)
            return func(*args, **(kwargs or {}))

    weights.forward(picture(runner))
    homes = {value.untyped_storage().data_ptr() for block in weights._blocks for value in block.home}
    with Reads():
        weights.forward(picture(runner))
    assert (on_device(weights, runner), read) == (weights.device_bytes, [])
    assert weights.device_bytes <= limit < runner.bytes
    assert weights.device_bytes > limit - runner.bytes // 8, "what there is room for stays"


def least_of(runner: ModelRunner) -> int:
    return offloaded(ModelRunner(zoo.deep(), FP32), LaggingDevice()).device_bytes


# what a model may do


class Row(nn.Module):
    """Convolutions, called as `order` tells; `failing` raises before that one, `reads` is one whose weight is read by
    the whole, `listens` is told before each."""

    def __init__(self, count: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(count))
        self.order = [*range(count)]
        self.listens: Callable[[int], None] = lambda place: None

    def forward(self, x: Tensor) -> Tensor:
        for place in self.order:
            self.listens(place)
            x = self.layers[place](x)
        return x


INFO = model_info(zoo.compact(scale=1))


def row(count: int = 6, limit: int = 0, device: LaggingDevice | None = None) -> tuple[Row, OffloadedWeights]:
    network = Row(count).requires_grad_(False)
    weights = OffloadedWeights(network, network, use_of_weights(network, network, INFO), device or LaggingDevice())
    weights.keep_within(limit)
    return network, weights


def truth(network: Row, x: Tensor) -> Tensor:
    """By the weights where they are at rest."""
    for place in network.order:
        layer = network.layers[place]
        x = nn.functional.conv2d(x, layer.weight.clone(), layer.bias.clone(), padding=1)
    return x


X = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    "order", [[0, 1, 2, 3], [5, 4, 3, 2, 1, 0], [0, 0, 0, 1, 1], [0, 1, 0, 1, 2, 0], [3], []], ids=str
)
def test_blocks_that_come_in_another_order_several_times_or_never(order: list[int]) -> None:
    network, weights = row()
    for now in ([*range(6)], order, order, [*range(6)]):
        network.order = now
        assert torch.equal(weights.forward(X), truth(network, X))


def test_the_next_blocks_weights_are_on_their_way_before_this_one_has_computed() -> None:
    device = LaggingDevice()
    network, weights = row(device=device)
    copies: list[int] = []
    for layer in network.layers:
        layer.register_forward_hook(lambda *_: copies.append(sum(stream.copies for stream in device.streams)))
    weights.forward(X)
    assert copies == [2, 3, 4, 5, 6, 7], "the last one is the first of the next forward"
    copies.clear()
    weights.forward(X)
    assert copies == [8, 9, 10, 11, 12, 13]
    assert [stream.copies for stream in device.streams[-2:]] in ([7, 6], [6, 7]), "two streams in turn"


def test_a_place_is_filled_only_when_its_last_block_has_computed() -> None:
    device = LaggingDevice()
    _, weights = row(device=device)
    weights.forward(X)
    for stream in device.streams[-2:]:
        computed = [event for event in stream.followed if event._stream is device.current()]
        assert len(computed) == stream.copies


def test_what_is_read_from_outside_of_its_module_stays() -> None:
    class Reader(Row):
        def forward(self, x: Tensor) -> Tensor:
            x = x * self.layers[2].weight.mean()
            return super().forward(x) + self.kept(self.layers[4])

        @staticmethod
        def kept(layer: nn.Module) -> Tensor:
            return next(layer.parameters())[0, 0, 0, 0]

    network = Reader().requires_grad_(False)
    y = network(X)
    weights = OffloadedWeights(network, network, use_of_weights(network, network, INFO), LaggingDevice())
    weights.keep_within(0)
    assert torch.equal(weights.forward(X), y)
    [rest, *_] = weights._staying
    assert {id(network.layers[place].weight) for place in (2, 4)} == set(map(id, rest.tensors))


def test_a_view_that_outlives_its_block_is_of_weights_that_stay() -> None:
    class Handing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(3, 1, 1), requires_grad=False)

        def forward(self) -> Tensor:
            return self.weight.view(1, 3, 1, 1)

    class Network(Row):
        def __init__(self) -> None:
            super().__init__()
            self.handing = Handing()

        def forward(self, x: Tensor) -> Tensor:
            shade = self.handing()
            return super().forward(x) * shade

    network = Network().requires_grad_(False)
    y = network(X)
    weights = OffloadedWeights(network, network, use_of_weights(network, network, INFO), LaggingDevice())
    weights.keep_within(0)
    assert any(tensor is network.handing.weight for tensor in weights._staying[0].tensors)
    assert torch.equal(weights.forward(X), y)


def test_weights_of_any_kind() -> None:
    """Of several types and strides, none at all, tied, in a buffer, and written to in a forward."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.arange(7)[::2])
            self.register_buffer("one", torch.tensor(0.5, dtype=torch.float64))
            self.register_buffer("wide", torch.rand(3, 1, 1).expand(3, 4, 4))
            self.register_buffer("nothing", torch.empty(0, 3))
            self.register_buffer("mask", torch.tensor([True, False, True]).view(3, 1, 1))
            self.matrix = nn.Parameter(torch.rand(3, 5, 7).permute(2, 0, 1), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            shade = self.wide.mean() * self.matrix[self.table].mean() + len(self.nothing)
            return torch.where(self.mask, x * self.one.float(), x * shade)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.odd = nn.ModuleList(Odd() for _ in range(4))
            self.odd[3].matrix = self.odd[1].matrix
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.count += 0.0
            for odd in self.odd:
                x = odd(x)
            return x + self.count

    torch.manual_seed(0)
    network = Network()
    y = network(X)
    strides = [tensor.stride() for tensor in weights_of(network)]
    weights = OffloadedWeights(network, network, use_of_weights(network, network, INFO), LaggingDevice())
    weights.keep_within(0)
    assert torch.equal(weights.forward(X), y)
    assert torch.equal(weights.forward(X), y)
    stay = {id(tensor) for block in weights._staying for tensor in block.tensors}
    assert {id(network.count), id(network.odd[1].matrix)} <= stay
    assert [tensor.stride() for tensor in weights_of(network)] == strides


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("place", [0, 3, 5])
def test_after_an_error_or_an_interrupt_in_the_middle(place: int, error: type[BaseException]) -> None:
    network, weights = row()
    y = weights.forward(X)

    def within(*_: object) -> None:
        raise error

    handle = network.layers[place].register_forward_hook(within, prepend=True)  # before it is told to have ended
    with pytest.raises(error):
        weights.forward(X)
    handle.remove()
    there = weights._resident.memory.untyped_storage()
    assert all(tensor.untyped_storage() is not there for tensor in weights_of(network))
    assert torch.equal(weights.forward(X), y)


@pytest.mark.parametrize("inference", [False, True])
def test_a_buffer_that_forwards_of_other_sizes_replace(inference: bool) -> None:
    """Also one that was replaced under inference mode before: what is written to such a tensor is not counted."""

    class Masking(Row):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            if self.mask.shape[-1] != x.shape[-1]:
                self.mask = torch.linspace(0.5, 1, x.shape[-1])
            return super().forward(x) * self.mask

    network, large = Masking().requires_grad_(False), torch.rand(1, 3, 48, 48)
    with torch.inference_mode(inference):
        y = [network(x) for x in (large, X)]
        assert network.mask.is_inference() == inference
    weights = OffloadedWeights(network, network, use_of_weights(network, network, INFO), LaggingDevice())
    for limit in (0, 2500, 0):
        weights.keep_within(limit)
        with torch.inference_mode():
            assert all(torch.equal(weights.forward(x), there) for x, there in zip((large, X), y, strict=True))
    weights.end()
    assert torch.equal(network(X), y[1])


def test_an_interrupt_while_weights_leave_has_them_arrive_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    _, weights = row(limit=2500)
    y = weights.forward(X)
    [*_, last] = weights._staying
    leave = last.point_to

    def interrupted(values: Sequence[Tensor]) -> None:
        leave(values)
        raise KeyboardInterrupt

    monkeypatch.setattr(last, "point_to", interrupted)
    with pytest.raises(KeyboardInterrupt):
        weights.release()
    monkeypatch.undo()
    assert torch.equal(weights.forward(X), y)
    there = weights._resident.memory.untyped_storage().data_ptr()
    staying = [tensor for block in weights._staying for tensor in block.tensors]
    assert staying
    assert {tensor.untyped_storage().data_ptr() for tensor in staying} == {there}


def test_two_threads_take_turns() -> None:
    network, weights = row(device=(device := LaggingDevice()))
    x = [torch.rand(1, 3, 16, 16) for _ in range(2)]
    y = [truth(network, some) for some in x]
    found: list[bool] = []

    def compute(k: int) -> None:
        with torch.no_grad():
            found.extend(torch.equal(weights.forward(x[k]), y[k]) for _ in range(20))

    threads = [threading.Thread(target=compute, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 40
    assert device.streams


def test_what_the_host_takes_away_goes_and_comes_back() -> None:
    network, weights = row(limit=2500, device=(device := LaggingDevice()))
    y = weights.forward(X)
    memory = weakref.ref(weights._resident.memory.untyped_storage())
    pinned = [weakref.ref(block.memory.untyped_storage()) for block in weights._blocks]
    weights.release()
    for stream in device.streams:
        stream.kept.clear()
    gc.collect()
    assert memory() is None
    assert [some() for some in pinned] == [None] * len(pinned)
    assert torch.equal(truth(network, X), y)
    assert torch.equal(weights.forward(X), y)
    weights.end()
    assert torch.equal(network(X), y)
    assert torch.equal(weights.forward(X), y)


def test_another_limit_holds_for_the_next_forward() -> None:
    _, weights = row()
    y, sizes = weights.forward(X), []
    for limit in (0, 2500, 1 << 20, 0):
        weights.keep_within(limit)
        assert torch.equal(weights.forward(X), y)
        sizes.append(weights.device_bytes)
    assert sizes[0] == sizes[3] < sizes[1] < sizes[2]
    memory = weights._resident.memory
    weights.keep_within(0)
    weights.forward(X)
    assert weights._resident.memory is memory, "what would be there is left where it is"


def test_no_more_is_pinned_than_the_bound_and_the_rest_waits_in_ordinary_memory() -> None:
    runner = ModelRunner(zoo.deep(), FP32)
    y, asked = runner.forward(picture(runner)), []

    def allocate(shape, dtype: torch.dtype) -> Tensor:
        asked.append(shape[0])
        return torch.empty(shape, dtype=dtype)

    def found(most: int) -> int:
        memory, device = PinnedMemory(allocate, most=lambda: most), LaggingDevice()
        device.pinned = lambda size: CudaDevice.pinned(device, size)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(streams, "PINNED", memory)
            weights = offloaded(runner, device)
            assert torch.equal(weights.forward(picture(runner)), y)
            held = memory.held_bytes()
            weights.end()
        return held

    held, moved = found(1 << 40), sum(asked)
    assert runner.bytes // 2 < moved <= held < 1.5 * moved
    assert 0 < found(moved // 2) <= moved // 2


# whole runs


class Card(StandaloneContext):
    """The CPU as a device with so many bytes for weights and forwards."""

    def __init__(self, capacity: int, **switches: bool) -> None:
        super().__init__("cpu")
        self.capacity, self.switches = capacity, Switches(**switches)
        self.brought: list[Resident] = []

    def make_resident(self, model: Resident, bytes_wanted: int) -> None:
        super().make_resident(model, bytes_wanted)
        self.brought.append(model)

    def room_beside(self, model: Resident, needed: int) -> int | None:
        last = self.brought[-1] if self.brought else None
        held = last.held_bytes if isinstance(last, OffloadedWeights) else last.bytes if last and last.residence else 0
        return self.capacity - held


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> LaggingDevice:
    """The CPU as a device that works on its own."""
    device = LaggingDevice()
    for module in (session, residency):
        monkeypatch.setattr(module, "stream_device", lambda _: device)
    return device


IMAGE = zoo.photograph(70, 90, frames=2)


def run(
    context: StandaloneContext,
    model: ImageModelDescriptor,
    sessions: SessionCache | None = None,
    image=IMAGE,
    **options,
) -> UpscaleResult:
    options = {"precision": "fp32", "compile": False, "overlap": 8, "tile": 32, **options}
    return upscale(image, model, UpscaleOptions(**options), context, sessions or new_sessions())


@pytest.mark.parametrize("tile", [0, 32])
@pytest.mark.parametrize("make", [zoo.deep, zoo.swinir, zoo.rcan_unshuffle, zoo.span], ids=lambda make: make.__name__)
def test_a_run_whose_weights_do_not_fit_gives_the_same_picture(make, tile: int, device: LaggingDevice) -> None:
    whole = run(StandaloneContext("cpu"), make(), tile=tile)
    card = Card(1 << 62, weights_stay=False)
    found = run(card, make(), tile=tile)
    assert torch.equal(found.image, whole.image)
    assert isinstance(card.brought[-1], OffloadedWeights)
    assert found.report.notes == (f"{NOTHING_STAYS} (VRAM state: no)",)
    assert found.report.memory.waiting
    assert whole.report.notes == ()
    assert whole.report.memory.waiting == 0


def test_as_many_weights_stay_as_leave_room_for_the_picture(device: LaggingDevice) -> None:
    model, image = zoo.deep(), zoo.photograph(64, 64)  # the least tile
    memory = run(Card(1 << 62), model, image=image, tile=0, reproducible=True).report.memory
    weights, forward = memory.copy + memory.transformed, memory.forward
    card, sessions, sizes = Card(0), new_sessions(), []
    for capacity in (0.6, 0.8, 1.0, 0.6):
        card.capacity = forward + int(capacity * weights)
        report = run(card, model, sessions, image=image, tile=0, reproducible=True).report
        sizes.append(report.memory.copy + report.memory.transformed)
        assert report.notes == ((f"{COMES_IN_PARTS} (VRAM state: low)",) if capacity < 1 else ())
    assert sizes[0] == sizes[3] < sizes[1] < sizes[2] == weights
    assert sizes[1] <= 0.8 * weights


def test_where_not_even_the_largest_layers_fit_the_error_names_what_is_needed_and_free(device: LaggingDevice) -> None:
    with pytest.raises(OutOfMemoryError, match=r"about \d+ MiB are needed .* and 0 are free; free memory") as raised:
        run(Card(1000), zoo.deep())
    assert "layer by layer" in str(raised.value)


def test_weights_that_the_caller_changes_between_two_runs_are_the_new_ones(device: LaggingDevice) -> None:
    model, card, sessions = zoo.deep(), Card(1 << 62, weights_stay=False), new_sessions()
    before = run(card, model, sessions).image
    with torch.no_grad():
        next(model.model.parameters()).mul_(0.5)
    after = run(card, model, sessions).image
    assert not torch.equal(after, before)
    assert torch.equal(after, run(StandaloneContext("cpu"), model).image)


@pytest.mark.parametrize(
    ("error", "again"), [(RuntimeError("not implemented for 'Half'"), False), (MemoryError("just now"), True)]
)
def test_a_model_that_cannot_be_computed_on_a_cpu_is_brought_whole(
    device, error: Exception, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[nn.Module] = []

    def fails(module: nn.Module, *_: object) -> None:
        tried.append(module)
        raise error

    monkeypatch.setattr(residency, "use_of_weights", fails)
    card, model, sessions = Card(1 << 62, weights_stay=False), zoo.deep(), new_sessions()
    for _ in range(3):
        assert run(card, model, sessions).report.notes == ()
        assert not isinstance(card.brought[-1], OffloadedWeights)
    assert (len(tried) > len(set(tried))) == again, (
        "a copy of the model is tried before every run only for want of memory"
    )


def test_what_is_compiled_is_left_out(device: LaggingDevice) -> None:
    report = run(Card(1 << 62, weights_stay=False), zoo.deep(), compile=True, compile_mode="wait").report
    assert report.compiling == "not needed: weights come layer by layer"


def test_a_tile_computed_again_in_a_safer_mode_has_its_weights(device: LaggingDevice) -> None:
    """Another copy of the model, which does not fit either."""
    broken = iter([True])

    def change(y: Tensor) -> Tensor:
        in_a_run = y.device.type == "cpu" and y.shape[-1] > 64
        return y * float("nan") if in_a_run and next(broken, False) else y

    card = Card(1 << 62, weights_stay=False)
    result = run(card, zoo.toy(change=change), precision="bf16", tile=48)
    assert torch.isfinite(result.image).all()
    assert result.report.health.repairs
    assert len({id(model) for model in card.brought}) == 2


def test_a_tile_computed_again_has_the_weights_where_they_are(device, monkeypatch: pytest.MonkeyPatch) -> None:
    """While frames are in work there may be no room beside them to bring any: these weights are there."""

    class Filled(Card):
        def room_beside(self, model: Resident, needed: int) -> int | None:
            return 100 if self.brought else super().room_beside(model, needed)

    compilers, sessions = Compilers(), new_sessions()
    monkeypatch.setattr(compile_cache, "load_package", compilers.load)
    compilers.at_once = lambda job: job.succeed()
    sessions.compiles = CompileCache(start=compilers.start)
    compilers.wrong = lambda y: 0.7 * y + 0.15 if len(compilers.calls) > 1 else y
    image, card = zoo.photograph(200, 210), Filled(1 << 30)
    result = run(card, zoo.toy(), sessions, image, compile=True, compile_mode="wait")
    assert torch.equal(result.image, run(StandaloneContext("cpu"), zoo.toy(), image=image).image)
    assert "has not when computed eagerly" in result.report.compiling
    assert not any(isinstance(model, OffloadedWeights) for model in card.brought)


def test_weights_that_came_to_one_card_come_to_another(device: LaggingDevice) -> None:
    runner, card = ModelRunner(zoo.deep(), FP32), Card(1 << 62, weights_stay=False)
    residency.bring(card, runner, 0)
    offload = runner.offload
    assert isinstance(offload, OffloadedWeights)
    runner.forward(picture(runner))
    other = Card(1 << 62, weights_stay=False)
    other.device = torch.device("meta")
    residency.bring(other, runner, 0)
    assert (offload.on, offload.held_bytes) == (False, 0)
    assert other.brought[-1] is not offload


def test_what_lies_on_another_card_leaves_no_room_on_this_one(device: LaggingDevice) -> None:
    class There(ModelRunner):
        device = torch.device("cuda", 0)

    class Other(Card):
        device = torch.device("cuda", 1)
        needed = 0

        def make_resident(self, model: Resident, bytes_wanted: int) -> None:
            model.residence = self.device

        def room_beside(self, model: Resident, needed: int) -> int | None:
            self.needed = needed
            return super().room_beside(model, needed)

    runner, card, same = There(zoo.deep(), FP32), Other(1 << 62), Other(1 << 62)
    card.device, same.device = torch.device("cuda", 1), There.device
    runner.residence = There.device
    for some in (card, same):
        residency.bring(some, runner, 10)
    assert (card.needed, same.needed) == (runner.bytes + 10, 10)
