"""What a run tells its host, by whose thread, and what becomes of an interrupt."""

from __future__ import annotations

import contextvars
import threading

import pytest
from hearing import Clock, Host, Interrupted, NoTicker

from cudaspeed.api.context import Switches
from cudaspeed.pipeline.monitor import Monitor, Status, lasting
from cudaspeed.pipeline.ticker import Ticker


class Run:
    """A monitor on its host, by a clock and a ticker of the test's."""

    def __init__(self) -> None:
        self.host, self.clock, self.ticker = Host(), Clock(), NoTicker()
        self.monitor = Monitor(self.host, self.clock, self.ticker)  # type: ignore[arg-type]

    def later(self, seconds: float) -> None:
        """So many seconds in which the run's own thread is busy, and the ticker ticks."""
        for _ in range(round(seconds * 2)):
            self.clock.now += 0.5
            self.ticker.tick()


class Copying:
    """An activity that is at `done` of four."""

    done = 0.0

    def status(self, now: float) -> Status:
        return Status("copying", self.done, 4)


@pytest.fixture
def run() -> Run:
    return Run()


def test_a_host_that_knows_of_no_switches_asks_for_nothing(run: Run) -> None:
    class Older:
        def __getattr__(self, name: str) -> object:
            if name == "switches":
                raise AttributeError(name)
            return getattr(run.host, name)

    assert Monitor(Older(), run.clock, run.ticker).switches == Switches()  # type: ignore[arg-type]


def test_a_quick_run_says_nothing(run: Run) -> None:
    with run.monitor as monitor:
        for text in ("hashing", "measuring", ""):
            monitor.say(text)
            run.later(0.25)
        monitor.progress(1, 1)
        monitor.summary = "done"
    assert run.host.told == [(1, 1)]


def test_where_texts_stay_a_quick_run_ends_with_what_was_done_and_no_lie_is_left(run: Run) -> None:
    run.host.texts_stay = True
    monitor = Monitor(run.host, run.clock, run.ticker)  # type: ignore[arg-type]
    with monitor:
        monitor.say("hashing")
        monitor.summary = "30x20 -> 60x40"
    assert run.host.texts == ["30x20 -> 60x40"]
    with pytest.raises(Interrupted), Monitor(run.host, run.clock, run.ticker):  # type: ignore[arg-type]
        raise Interrupted
    assert run.host.texts[1:] == ["stopped after 0 s"]


def test_no_phase_is_silent_for_long_and_the_seconds_go_on(run: Run) -> None:
    with run.monitor as monitor:
        monitor.say("hashing")
        run.later(6.0)
        texts = [*run.host.texts]
        assert texts[0] == "hashing"
        assert texts[-1] == "hashing, 5 s so far"
        assert len(texts) >= 4
        run.clock.now += 0.4
        monitor.say("copying")
        assert run.host.texts[-1] == "copying", "what comes next need not wait for the ticker"


def test_texts_come_at_most_some_times_a_second(run: Run) -> None:
    with run.monitor as monitor:
        run.clock.now += 2
        for k in range(100):
            run.clock.now += 0.01
            monitor.say(f"step {k}")
    assert 2 <= len(run.host.texts) <= 5


def test_what_remains_to_be_read_is_true(run: Run) -> None:
    with run.monitor as monitor:
        monitor.say("measuring")
        run.later(3)
        monitor.say("")
        monitor.summary = "30x20 -> 60x40"
    assert run.host.texts[-1] == "30x20 -> 60x40"
    stopped = Run()
    with pytest.raises(Interrupted), stopped.monitor as monitor:
        monitor.say("measuring")
        stopped.later(7)
        raise Interrupted
    assert stopped.host.texts[-1] == "stopped after 7 s"


def test_the_bar_never_goes_back_and_moves_while_the_run_s_thread_does_not_come_by(run: Run) -> None:
    activity = Copying()
    with run.monitor as monitor:
        monitor.progress(1, 4)
        monitor.follow(activity)
        for done in (1.5, 1.2, 1.7):
            activity.done = done
            run.later(2.0)
        monitor.progress(3, 16)  # the work was cut up anew
        monitor.progress(8, 16)
        monitor.progress(16, 16)
    assert run.host.shares == [0.25, 0.375, 0.425, 0.5, 1.0]


def test_what_goes_on_besides_is_told_beside_the_activity(run: Run) -> None:
    with run.monitor as monitor:
        monitor.follow(Copying())
        monitor.say("compiling meanwhile")
        run.later(2.0)
        assert run.host.texts[-1].startswith("copying (compiling meanwhile)")
        monitor.say("")
        run.later(2.0)
        assert run.host.texts[-1].startswith("copying")
        assert "compiling" not in run.host.texts[-1]


def test_an_interrupt_that_the_host_raises_on_the_ticker_s_thread_is_raised_in_the_run(run: Run) -> None:
    def bar(done: float, total: int) -> None:
        raise Interrupted  # as ComfyUI's does, which forgets of it then

    activity, run.host.progress = Copying(), bar  # type: ignore[method-assign]
    with pytest.raises(Interrupted), run.monitor as monitor:
        monitor.follow(activity)
        activity.done = 1.0
        run.later(3.0)
        monitor.raise_if_interrupted()
        pytest.fail("it was swallowed")


def test_an_interrupt_that_came_after_the_last_question_ends_the_run_all_the_same(run: Run) -> None:
    def bar(done: float, total: int) -> None:
        raise Interrupted

    activity, run.host.progress = Copying(), bar  # type: ignore[method-assign]
    with pytest.raises(Interrupted), run.monitor as monitor:
        monitor.follow(activity)
        activity.done = 1.0
        run.later(3.0)


def test_an_interrupt_that_somebody_swallowed_is_raised_again(run: Run) -> None:
    run.host.stop = True
    with pytest.raises(Interrupted), run.monitor as monitor:
        try:
            monitor.raise_if_interrupted()
        except Exception:
            run.clock.now += 1
        monitor.raise_kept()
        pytest.fail("it was swallowed")


def test_nothing_is_told_of_a_run_that_is_over(run: Run) -> None:
    ticks: list = []
    with run.monitor:
        run.later(2.0)
        ticks += run.ticker.ticks
    told = [*run.host.told]
    run.clock.now += 10
    for tick in ticks:  # it was about to
        tick()
    assert run.host.told == told
    assert not run.ticker.ticks


def test_the_ticker_speaks_on_its_own_thread_with_the_run_s_context() -> None:
    node: contextvars.ContextVar[str] = contextvars.ContextVar("node", default="none")
    spoken, there = [], threading.Event()

    class Named(Host):
        def say(self, text: str) -> None:
            spoken.append((node.get(), threading.current_thread() is threading.main_thread()))
            there.set()

    clock = Clock()
    node.set("7")
    with Monitor(Named(), clock, Ticker(period=0.01)) as monitor:
        monitor.say("hashing")
        clock.now += 3
        assert there.wait(20)
    assert ("7", False) in spoken


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (59.7, "1 min"), (190, "3 min 10 s"), (4805, "1 h 20 min 5 s"), (3600, "1 h")]
)
def test_seconds_in_words(seconds: float, words: str) -> None:
    assert lasting(seconds) == words
