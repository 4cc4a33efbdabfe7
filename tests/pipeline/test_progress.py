"""A run's bar, its texts and its interrupts while one forward takes long, by a clock that only the model moves."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import zoo
from clocks import new_sessions
from hearing import Clock, Host, Interrupted, NoTicker
from torch import Tensor, nn

from cudaspeed import upscale_engine
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.api.upstream import has_hooks
from cudaspeed.devices.reading import DeviceMemory
from cudaspeed.kernels import winograd
from cudaspeed.models.execution import ExecutionMode
from cudaspeed.models.pace import Pace
from cudaspeed.models.runner import ModelRunner
from cudaspeed.pipeline import progress as progress_module
from cudaspeed.pipeline.monitor import Monitor
from cudaspeed.pipeline.progress import Forward, PassShares, TileProgress, wait_for
from cudaspeed.upscale_engine import upscale

BLOCKS = 20
PLAIN = ExecutionMode("fp32", autocast=False, channels_last=True)


class Block(nn.Module):
    """Gives what it gets, after `before(its number, that)`."""

    def __init__(self, number: int, before: Callable[[int, Tensor], None]) -> None:
        super().__init__()
        self.number, self.before = number, before

    def forward(self, x: Tensor) -> Tensor:
        self.before(self.number, x)
        return x


class Swallowing(nn.Sequential):
    """Goes on whatever its blocks raise."""

    def forward(self, x: Tensor) -> Tensor:
        for block in self:
            try:
                x = block(x)
            except Exception:
                continue
        return x


class Setting:
    """Runs of a model of twenty blocks that take `seconds` each in tiles of 40 pixels, and no time in any others, which
    are what is measured. `computed` are the blocks of these tiles, in order; in number `stop_in` of them the user asks
    to stop."""

    def __init__(self, kind: type[nn.Sequential] = nn.Sequential, seconds: float = 1.0) -> None:
        self.host, self.clock, self.ticker = Host(), Clock(), NoTicker()
        self.seconds, self.sessions = seconds, new_sessions()
        self.stop_in: int | None = None
        self.computed: list[int] = []

        def before(number: int, x: Tensor) -> None:  # a function: a copy of the model has the same
            self._block(number, x)

        self.model = zoo.toy(2, kind(*(Block(number, before) for number in range(BLOCKS))))

    def _block(self, number: int, x: Tensor) -> None:
        if x.shape[-1] != 80:
            return
        self.host.stop |= len(self.computed) == self.stop_in
        self.computed.append(number)
        self.clock.now += self.seconds
        self.ticker.tick()

    def run(self, width: int = 40, tile: int = 0) -> Tensor:
        tiled = {"tile": tile, "overlap": 8, "level": "memory"} if tile else {}
        options = UpscaleOptions(precision="fp32", compile=False, **tiled)
        return upscale(zoo.photograph(40, width), self.model, options, self.host, self.sessions).image


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Setting]:
    def make(*arguments: object) -> Setting:
        made = Setting(*arguments)  # type: ignore[arg-type]
        monkeypatch.setattr(upscale_engine, "Monitor", lambda host: Monitor(host, made.clock, made.ticker))
        return made

    return make


@pytest.fixture(autouse=True)
def copies(monkeypatch: pytest.MonkeyPatch) -> list[ModelRunner]:
    """All copies of models that a test makes."""
    made: list[ModelRunner] = []
    begin = ModelRunner.__init__

    def noted(self: ModelRunner, *arguments: object) -> None:
        begin(self, *arguments)  # type: ignore[arg-type]
        made.append(self)

    monkeypatch.setattr(ModelRunner, "__init__", noted)
    return made


@contextmanager
def listened_to(host: Host, clock: Clock, ticker: NoTicker | None = None) -> Iterator[TileProgress]:
    """A run of one tile of 64 pixels."""
    with Monitor(host, clock, ticker or NoTicker()) as monitor, TileProgress(monitor) as progress:  # type: ignore[arg-type]
        progress.stand(0, 1, 64)
        yield progress


def hooked(copies: list[ModelRunner]) -> bool:
    return any(has_hooks(module) for runner in copies for module in runner.module.modules())


def test_the_bar_of_one_piece_moves_to_99_percent_and_ends_when_it_is_done(
    setting: Callable[..., Setting], copies: list[ModelRunner]
) -> None:
    one = setting()
    one.run()
    shares = one.host.shares
    assert len(shares) >= BLOCKS / 2
    assert shares == sorted(set(shares))
    assert shares[-1] == 1.0
    assert shares[-2] <= 0.99
    assert not hooked(copies)


def test_its_text_tells_how_long_the_rest_takes(setting: Callable[..., Setting]) -> None:
    one = setting()
    one.run()
    assert [
        text
        for text in one.host.texts
        if text.startswith("one piece, fp32, ") and text.endswith((", 10 s left", ", 11 s left"))
    ]
    assert one.host.texts[-1].startswith("40x40 -> 80x80, fp32, one piece, ")
    first = one.host.texts[:2]
    one.host.told.clear()
    one.run()
    assert one.host.texts[0].startswith("one piece, fp32, 1"), (
        f"the second run knows at once, the first did not: {first}"
    )


def test_tiles_are_counted_and_their_parts_move_the_bar(setting: Callable[..., Setting]) -> None:
    some = setting()
    some.run(width=104, tile=40)
    shares, texts = some.host.shares, some.host.texts
    assert shares == sorted(set(shares))
    assert {1 / 3, 2 / 3, 1.0} <= set(shares)
    assert len(shares) >= 3 * BLOCKS / 2
    assert [text for text in texts if text.startswith("tile 2/3, ") and text.endswith(" left")]
    seconds = [int(text.split()[-3]) for text in texts if text.startswith("tile 3/3, ") and text.endswith(" s left")]
    assert seconds == sorted(seconds, reverse=True)
    assert not [text for text in texts if "4/3" in text]
    assert texts[-1].startswith("104x40 -> 208x80, fp32, 3 tiles, ")


def test_a_quick_run_says_nothing_and_tells_of_whole_tiles(setting: Callable[..., Setting]) -> None:
    quick = setting(nn.Sequential, 0.001)
    quick.run(width=104, tile=40)
    assert quick.host.told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("stop_in", [0, 7, BLOCKS - 1])
@pytest.mark.parametrize("kind", [nn.Sequential, Swallowing])
def test_an_interrupt_is_noticed_before_the_next_block(
    kind: type[nn.Sequential], stop_in: int, setting: Callable[..., Setting], copies: list[ModelRunner]
) -> None:
    stopped = setting(kind)
    stopped.stop_in = stop_in
    with pytest.raises(Interrupted):
        stopped.run()
    assert stopped.computed == [*range(stop_in + 1)]
    assert not hooked(copies)
    assert stopped.host.texts[-1] == f"stopped after {stop_in + 1} s"


def test_an_interrupt_while_a_faulty_tile_is_computed_again_is_none_of_the_model_s(
    setting: Callable[..., Setting], copies: list[ModelRunner]
) -> None:
    stopped = setting()
    stopped.model.model.change.append(Block(BLOCKS, lambda _, x: x.fill_(torch.nan)))
    stopped.sessions = new_sessions()
    options = UpscaleOptions(precision="bf16", autocast=False, compile=False)
    stopped.stop_in = BLOCKS + 4
    with pytest.raises(Interrupted):
        upscale(zoo.photograph(40, 40), stopped.model, options, stopped.host, stopped.sessions)
    assert len(stopped.computed) == BLOCKS + 5
    assert not hooked(copies)


def test_a_failing_model_leaves_no_hook(setting: Callable[..., Setting], copies: list[ModelRunner]) -> None:
    def fail(number: int, x: Tensor) -> None:
        if x.shape[-1] == 80:
            raise RuntimeError("it cannot")

    failing = setting()
    failing.model.model.change.append(Block(BLOCKS, fail))
    with pytest.raises(Exception, match="it cannot"):
        failing.run()
    assert not hooked(copies)


def test_our_chain_of_convolutions_stops_between_two_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not winograd.prepare(tmp_path / "compiled"):
        pytest.skip("the kernels cannot be built here: not Linux, or no C++ compiler")
    host, clock, calls = Host(), Clock(), itertools.count()
    convolve = winograd.Kernels.convolve

    def slow(*arguments: object) -> None:
        clock.now += 1
        host.stop |= next(calls) == 5
        convolve(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(winograd.Kernels, "convolve", slow)
    mode = ExecutionMode("fp32", autocast=False, channels_last=True, kernels="winograd")
    runner, x = ModelRunner(zoo.compact(convs=30), mode), torch.rand(1, 3, 16, 16)
    with pytest.raises(Interrupted), listened_to(host, clock) as progress, progress.computing(runner, x, "eager"):
        runner.forward(x)
    assert next(calls) == 6
    with listened_to(host, clock) as progress, progress.computing(runner, x, "eager"):
        runner.forward(x)
    assert len(host.shares) > 15
    assert host.shares[-1] <= 0.99


def test_the_text_tells_the_tile_how_it_is_computed_how_fast_and_what_memory_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host, clock = Host(), Clock()
    runner, x = ModelRunner(zoo.compact(), ExecutionMode("bf16", False, True)), torch.rand(1, 3, 8, 8)
    memory = DeviceMemory(total=7_400_000_000, free=5_500_000_000)
    card = SimpleNamespace(own_memory=True, memory=lambda device: memory)
    with Monitor(host, clock, NoTicker()) as monitor:  # type: ignore[arg-type]
        progress = TileProgress(monitor, PassShares((60_000_000 * 4,)))
        with progress:
            progress.stand(0, 60, 64)
            with progress.computing(runner, x, "compiled"):
                clock.now += 2
            progress.stand(15, 60, 64)
            with progress.computing(runner, x, "compiled"):
                clock.now += 0.5
                monitor.raise_if_interrupted()
                assert host.texts[-1] == "tile 16/60, bf16, compiled, 24 MP/s, 8 s left"
                monkeypatch.setattr(progress_module, "backend_of", lambda device: card)
                clock.now += 1.5
                monitor.raise_if_interrupted()
                assert host.texts[-1] == "tile 16/60, bf16, compiled, 15 MP/s, 1.9 of 7.4 GB, 12 s left"


def test_an_interrupt_does_not_wait_for_a_copy_of_the_model() -> None:
    """On a busy machine it takes seconds to copy, fold and pack the weights of a model."""

    class Begun:
        def __deepcopy__(self, memo: object) -> Begun:
            host.stop = True
            return self

    host, sessions, model = Host(), new_sessions(), zoo.compact()
    model.model.begun = Begun()
    with pytest.raises(Interrupted):
        upscale(zoo.photograph(32, 32), model, UpscaleOptions(compile=False), host, sessions)
    assert not sessions.runners.held(), "none was made to its end"


def test_a_batch_that_holds_tiles_more_than_once_counts_no_further_than_there_are() -> None:
    """Where some stand still, any of the others takes their place in the batch."""
    host, clock = Host(), Clock()
    runner, x = ModelRunner(zoo.compact(), PLAIN), torch.rand(4, 3, 8, 8)
    runner.pace.note("compiled", 256, 2.0)
    with listened_to(host, clock) as progress:
        progress.stand(2, 4, 64)
        with progress.computing(runner, x, "compiled"):
            clock.now += 1.9
            progress.monitor.raise_if_interrupted()
            assert host.texts[-1].startswith("tiles 3-4/4, ")
    assert max(host.shares) <= 1


def test_where_a_forward_has_no_steps_the_time_tells(setting: Callable[..., Setting]) -> None:
    """Compiled code: the bar follows what it took before, slower where it takes longer, and the ticker tells of it."""
    host, clock, ticker = Host(), Clock(), NoTicker()
    runner, x = ModelRunner(zoo.compact(), PLAIN), torch.rand(1, 3, 8, 8)
    runner.pace.note("compiled", 64, 10.0)
    with listened_to(host, clock, ticker) as progress, progress.computing(runner, x, "compiled"):
        for _ in range(30):  # three times as long as before
            clock.now += 1
            ticker.tick()
    assert host.shares == sorted(set(host.shares))
    assert host.shares[3] == pytest.approx(0.5, abs=0.11)
    assert host.shares[-1] == 0.99
    assert (
        "one piece, fp32, compiled, 6 s left" in host.texts
        or "one piece, fp32, compiled, 0.0 MP/s, 6 s left" in host.texts
    )
    assert all(a != b for a, b in itertools.pairwise(host.texts))
    assert len(host.texts) > 20


def test_a_short_forward_is_not_listened_to_once_that_is_known(copies: list[ModelRunner]) -> None:
    host, clock = Host(), Clock()
    runner, x = ModelRunner(zoo.compact(), PLAIN), torch.rand(1, 3, 8, 8)
    runner.pace.note("eager", 64, 0.1)
    with listened_to(host, clock) as progress:
        with progress.computing(runner, x, "eager"):
            assert not hooked(copies)
        with progress.computing(runner, x.repeat(10, 1, 1, 1), "eager"):
            assert hooked(copies)
    assert not hooked(copies)


def test_how_far_a_forward_is() -> None:
    by_time = Forward(Pace(), "compiled", 1, 64, began=0.0, seconds=10.0)
    fractions = [by_time.fraction(now / 10) for now in range(1000)]
    assert fractions == sorted(fractions)
    assert fractions[50] == pytest.approx(0.5)
    assert max(fractions) == 0.99
    by_steps = Forward(Pace(), "eager", 1, 64, began=0.0, seconds=10.0, steps=20)
    assert by_steps.fraction(500.0) == 0.0
    by_steps.steps_done = 400
    assert by_steps.fraction(0.0) == 0.99
    assert Forward(Pace(), "compiled", 1, 64, began=0.0, seconds=None).fraction(50.0) == 0.0


class Late:
    """An event that is past after it was asked after some times."""

    def __init__(self, times: int) -> None:
        self.times = times

    def query(self) -> bool:
        self.times -= 1
        return self.times < 0

    def synchronize(self) -> None:
        pytest.fail("nobody can be asked meanwhile")


def test_a_device_that_works_on_its_own_is_waited_for_with_open_ears() -> None:
    asked: list[int] = []
    wait_for(Late(50), lambda: asked.append(1), sleep=lambda seconds: None)
    assert len(asked) == 50

    def stop() -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        wait_for(Late(1000), stop, sleep=lambda seconds: None)
