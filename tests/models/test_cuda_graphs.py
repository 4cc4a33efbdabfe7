"""Replayed forwards: when one is recorded, when anew, when not, and whose its results are. The recorder is a fake that
treats memory as CUDA graphs do; the real one is tried where there is a CUDA device."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from itertools import cycle

import pytest
import torch
from torch import Tensor, nn

from cudaspeed.api.model_info import Forward
from cudaspeed.models import cuda_graphs
from cudaspeed.models.blocks import blocks_of, listening
from cudaspeed.models.cuda_graphs import CudaGraphExecutor, CudaRecorder
from cudaspeed.models.execution import ExecutionMode


class Network(nn.Module):
    """Twice the size, and one weight that shows."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3, 1, 1), 0.5), requires_grad=False)
        self.register_buffer("offset", torch.zeros(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(x * self.weight + self.offset, scale_factor=2)


class FakeRecording:
    """Computes from the weights that lay there when it was made, into one and the same output."""

    def __init__(self, forward: Forward, network: Network, example: Tensor) -> None:
        self.input, self.output = example.clone(), forward(example).clone()
        self._weight, self._offset = network.weight.detach(), network.offset.detach()

    def launch(self) -> None:
        values = self.input * self._weight + self._offset
        self.output.copy_(nn.functional.interpolate(values, scale_factor=2))


class FakeRecorder:
    def __init__(self, network: Network) -> None:
        self.network = network
        self.made: list[weakref.ref[FakeRecording]] = []
        self.released = 0
        self.failure: Exception | None = None

    def record(self, forward: Forward, example: Tensor) -> FakeRecording:
        if self.failure:
            raise self.failure
        recording = FakeRecording(forward, self.network, example)
        self.made.append(weakref.ref(recording))
        return recording

    def release(self) -> None:
        self.released += 1

    @property
    def alive(self) -> int:
        return sum(made() is not None for made in self.made)


class Bench:
    """A graphed network; `eager` counts the forwards that were not replayed."""

    def __init__(self, seconds: Callable[[bool], float] = lambda replayed: 0.1 if replayed else 1.0) -> None:
        self.network = Network()
        self.recorder = FakeRecorder(self.network)
        self.seconds = seconds
        self.eager = 0

        def forward(x: Tensor) -> Tensor:
            self.eager += 1
            return self.network(x)

        def time(work: Callable[[], object]) -> float:
            before = self.eager
            work()
            return self.seconds(self.eager == before)

        self.graphed = CudaGraphExecutor(forward, self.network, MODE, self.recorder, time)

    def run(self, side: int = 8, times: int = 1) -> None:
        """Every result must be the network's."""
        for _ in range(times):
            x = torch.rand(1, 3, side, side)
            torch.testing.assert_close(self.graphed(x), self.network(x))

    def replays(self, side: int = 8) -> bool:
        """Whether a forward of this size is replayed."""
        before = self.eager
        self.run(side)
        return self.eager == before


OFTEN = cuda_graphs._SEEN
MODE = ExecutionMode("fp32", autocast=False, channels_last=False)


def test_a_shape_is_recorded_when_it_has_come_often_and_replayed_from_then_on() -> None:
    bench = Bench()
    bench.run(times=OFTEN - 1)
    assert not bench.recorder.made
    bench.run()
    assert len(bench.recorder.made) == 1
    assert bench.replays()
    assert not bench.replays(side=12), "another shape is another recording"
    assert len(bench.recorder.made) == 1


def test_it_says_how_it_computed_the_last_tiles() -> None:
    bench = Bench()
    for backend in ["eager"] * (OFTEN - 1) + ["CUDA graph"] * 2:
        bench.run()
        assert bench.graphed.mode.backend == backend
    bench.run(side=12)
    assert bench.graphed.mode.backend == "eager"


def test_once_distrusted_nothing_is_recorded_any_more() -> None:
    bench = Bench()
    bench.run(times=OFTEN)
    bench.graphed.distrust("a tile had NaN")
    assert not bench.replays()
    bench.run(times=2 * OFTEN)
    assert not bench.replays()
    assert len(bench.recorder.made) == 1


def test_results_stay_what_they_are_while_others_come() -> None:
    """The pipeline holds a batch while the next is computed."""
    bench = Bench()
    bench.run(times=OFTEN)
    held = bench.graphed(torch.full((1, 3, 8, 8), 0.25))
    bench.graphed(torch.full((1, 3, 8, 8), 0.75))
    assert torch.equal(held, torch.full((1, 3, 16, 16), 0.125))


def test_the_callers_tile_is_only_read() -> None:
    bench = Bench()
    bench.run(times=OFTEN)
    x = torch.rand(1, 3, 8, 8)
    before = x.clone()
    bench.graphed(x)
    bench.run()
    assert torch.equal(x, before)


@pytest.mark.parametrize("which", ["replaced", "data", "buffer"])
def test_it_is_recorded_anew_when_a_weight_moved(which: str) -> None:
    bench = Bench()
    bench.run(times=OFTEN)
    if which == "replaced":
        bench.network.weight = nn.Parameter(torch.full((3, 1, 1), 0.9), requires_grad=False)
    elif which == "data":
        bench.network.weight.data = torch.full((3, 1, 1), 0.9)
    else:
        bench.network.offset = torch.full((3, 1, 1), 0.3)
    assert not bench.replays(), "what lay there is gone"
    assert bench.recorder.alive == 0
    assert bench.recorder.released == 1
    bench.run(times=OFTEN)
    assert bench.replays()


def test_weights_that_move_all_the_time_are_not_recorded_all_the_time() -> None:
    """A host with little memory may bring them from main memory for every forward."""
    bench = Bench()
    for _ in range(3 * OFTEN):
        bench.run()
        bench.network.weight.data = bench.network.weight.data.clone()
    assert not bench.recorder.made


def test_a_weight_that_is_written_in_place_shows_at_once() -> None:
    bench = Bench()
    bench.run(times=OFTEN)
    bench.network.weight.fill_(0.7)
    assert bench.replays()


def test_only_the_shapes_used_last_are_kept() -> None:
    bench = Bench()
    sides = range(8, 8 + cuda_graphs._MOST_SHAPES)
    for side in sides:
        bench.run(side, times=OFTEN)
    bench.run(side=8)  # the oldest, but used again
    bench.run(side=40, times=OFTEN)
    assert bench.recorder.alive == cuda_graphs._MOST_SHAPES
    assert bench.replays(side=40)
    assert bench.replays(side=8)
    assert bench.recorder.made[1]() is None


def fails(bench: Bench) -> None:
    bench.recorder.failure = torch.cuda.OutOfMemoryError("full")


def computes_something_else(bench: Bench) -> None:
    bench.recorder.network = Network()
    bench.recorder.network.weight.fill_(0.2)


def gains_nothing(bench: Bench) -> None:
    bench.seconds = lambda replayed: 1.0


@pytest.mark.parametrize("flaw", [fails, computes_something_else, gains_nothing])
def test_a_recording_that_works_does_not_give_way_to_one_that_is_of_no_use(flaw: Callable[[Bench], None]) -> None:
    bench = Bench()
    sides = range(8, 8 + cuda_graphs._MOST_SHAPES)
    for side in sides:
        bench.run(side, times=OFTEN)
    flaw(bench)
    bench.run(side=40, times=2 * OFTEN)
    assert not bench.replays(side=40)
    assert bench.recorder.alive == cuda_graphs._MOST_SHAPES
    assert all(bench.replays(side) for side in sides)


@pytest.mark.parametrize("replayed", [0.96, 1.0, 2.0])
def test_what_gains_nothing_stays_eager(replayed: float) -> None:
    bench = Bench(lambda graph: replayed if graph else 1.0)
    bench.run(times=3 * OFTEN)
    assert not bench.replays()
    assert len(bench.recorder.made) == 1, "it is tried once"
    assert bench.recorder.alive == 0


def test_large_batches_are_not_tried() -> None:
    bench = Bench()
    x = torch.zeros(2, 3, 300, 300)
    for _ in range(OFTEN + 1):
        bench.graphed(x)
    assert not bench.recorder.made


@pytest.mark.parametrize(
    "failure", [RuntimeError("operation not permitted when stream is capturing"), torch.cuda.OutOfMemoryError("full")]
)
def test_where_recording_fails_the_shape_stays_eager_with_one_line(failure: Exception, caplog) -> None:
    bench = Bench()
    bench.recorder.failure = failure
    with caplog.at_level(logging.INFO, "cudaspeed"):
        bench.run(times=3 * OFTEN)
    assert [record.getMessage() for record in caplog.records] == [
        f"tiles of 8x8 are not recorded as CUDA graphs: {failure}"
    ]
    bench.recorder.failure = None
    bench.run(times=OFTEN)
    assert not bench.replays()
    bench.run(side=12, times=OFTEN)
    assert bench.replays(side=12), "other shapes are none the worse"


def test_who_listens_to_forwards_hears_nothing_of_a_recording_and_cannot_spoil_it() -> None:
    bench, recording = Bench(), []
    record = bench.recorder.record

    def noted(forward: Forward, example: Tensor) -> FakeRecording:
        recording.append(True)
        try:
            return record(forward, example)
        finally:
            recording.clear()

    def stop(steps: int) -> None:
        heard.append(steps)
        if recording:
            raise InterruptedError

    heard: list[int] = []
    bench.recorder.record = noted
    with listening(blocks_of(bench.network, 9), stop):
        for _ in range(OFTEN):
            bench.graphed(torch.rand(1, 3, 8, 8))
    assert heard == [1] * (OFTEN - 1), "the eager ones"
    assert bench.replays()


def test_a_recording_that_computes_something_else_is_not_used(caplog) -> None:
    bench = Bench()
    other = Network()
    other.weight.fill_(0.2)
    bench.recorder.network = other
    with caplog.at_level(logging.INFO, "cudaspeed"):
        bench.run(times=2 * OFTEN)
    assert "differs" in caplog.text
    assert not bench.replays()


def test_released_recordings_are_made_again_when_they_are_wanted() -> None:
    bench = Bench()
    bench.run(times=OFTEN)
    bench.graphed.release()
    assert (bench.recorder.alive, bench.recorder.released) == (0, 1)
    bench.run(times=OFTEN)
    assert bench.replays()


# --- with a CUDA device ----------------------------------------------------------------------------------------------

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class Cuda:
    def __init__(self, forward: Callable[[nn.Module, Tensor], Tensor] = lambda network, x: network(x)) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self.network = Network().to(self.device)
        recorder, seconds = CudaRecorder(self.device), cycle([1.0, 0.5])  # eager, replayed: worth it in any case
        self.graphed = CudaGraphExecutor(
            lambda x: forward(self.network, x), self.network, MODE, recorder, lambda work: next(seconds)
        )

    def run(self, times: int = 1) -> None:
        for _ in range(times):
            x = torch.rand(2, 3, 32, 32, device=self.device)
            torch.testing.assert_close(self.graphed(x), self.network(x))


@cuda
def test_a_real_graph_replays_and_is_made_anew_when_weights_moved() -> None:
    with torch.inference_mode():
        bench = Cuda()
        bench.run(times=OFTEN + 3)
        assert bench.graphed._recordings
        bench.network.cpu().to(bench.device).weight.fill_(0.3)
        bench.run(times=OFTEN + 3)
        assert bench.graphed._recordings
        results = [bench.graphed(torch.full((2, 3, 32, 32), value, device=bench.device)) for value in (0.1, 0.2)]
        assert [round(float(result[0, 0, 0, 0]), 3) for result in results] == [0.03, 0.06]


@cuda
def test_cuda_goes_on_after_a_recording_that_failed(caplog) -> None:
    """Also its allocator, which is asked to give memory back."""

    def looks(network: nn.Module, x: Tensor) -> Tensor:
        float(x.sum())  # waits for the device
        return network(x)

    with torch.inference_mode(), caplog.at_level(logging.INFO, "cudaspeed"):
        before = torch.cuda.current_stream()
        Cuda(looks).run(times=OFTEN + 3)
        assert "not recorded as CUDA graphs" in caplog.text
        assert torch.cuda.current_stream() == before
        assert not torch.cuda.is_current_stream_capturing()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        Cuda().run(times=OFTEN + 3)
