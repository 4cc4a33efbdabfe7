"""What `bench.first_use` measures: plain spandrel, this pack and perhaps another checkout of it, call by call."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import save_file

from .busy import Busy
from .contenders import Contender, Task
from .harness import ROOT, Record
from .model_zoo import build_fitted
from .photograph import photograph

CALLS, OF_LARGER = 10, 3
_WARM_UP = 2  # calls of what is chosen by hand
_STEADY_SECONDS, _FEWEST, _MOST = 3.0, 3, 15  # how long turns are taken for a steady state, and how often
_LONG = 1.0  # seconds of plain, beyond which it does not take every turn: noise is little beside it
# Processes whose first call is measured beside busy ones: plain's took 0.8 to 7.7 s from one to the next (SPAN 96x96).
_FIRSTS = 5
_LONG_FIRST = 10.0  # seconds of plain's first call, beyond which one process each has to do


def plain_turns(calls: int, first_seconds: float) -> set[int]:
    """In which of so many turns plain takes part, by what its first call took."""
    return {*range(calls)} if first_seconds < _LONG else {*range(min(3, calls)), calls - 1}


def rounds_for(seconds: float) -> int:
    """How many rounds a steady state gets where one takes so long."""
    return max(_FEWEST, min(_MOST, math.ceil(_STEADY_SECONDS / max(seconds, 1e-3))))


def _least(times: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: min(seconds) for name, seconds in times.items()}


class Place(NamedTuple):
    """Where models and cache folders lie, and what is asked of every measurement."""

    folder: Path
    device: str
    against: Path | None
    kernels: str
    idle_between: float

    def task(self, model: str, size: tuple[int, int]) -> Task:
        """`model` as a file, with a last layer that makes a photograph of one; written once."""
        file = self.folder / f"{Path(model).stem}.safetensors"
        if not file.exists():
            weights = build_fitted(model, photograph(64, 64).permute(0, 3, 1, 2)).model.state_dict()
            save_file({name: value.detach().clone().contiguous() for name, value in weights.items()}, file)
        return Task(file, size, self.device)

    def cache(self, purpose: str, task: Task, checkout: Path = ROOT) -> Path:
        """The cache folder for that purpose: at first one in which no model was ever used."""
        height, width = task.size
        folder = self.folder / f"{purpose}-{task.model.stem}-{width}x{height}"
        if self.kernels == "ready" and not folder.exists():
            shutil.copytree(self._kernels_of(checkout), folder)
        return folder

    def _kernels_of(self, checkout: Path) -> Path:
        """The folder with that checkout's kernels, built once."""
        built = self.folder / ("kernels" if checkout == ROOT else "kernels-then")
        if not built.exists():
            builder = Contender("kernels", None, built, checkout)
            try:
                if not builder.ready()["built"]:
                    print("our kernels for CPUs cannot be built here", flush=True)
            finally:
                builder.end()
            built.mkdir(exist_ok=True)
        return built


class Turns:
    """The processes on their turns with one model and picture: "plain", "ours" and perhaps "then"."""

    def __init__(self, running: dict[str, Contender], idle_between: float) -> None:
        self._running, self._idle_between = running, idle_between
        self.times: dict[str, list[float | None]] = {name: [] for name in running}
        self.runs: list[Record] = []
        """Of ours, as `Caller.call` tells them."""

    def take(self, calls: int) -> None:
        """All take `calls` turns; who begins alternates, plain first."""
        for turn in range(calls):
            for name in list(self._running) if turn % 2 == 0 else reversed(self._running):
                first = next(iter(self.times["plain"]), None)
                left_out = name == "plain" and first is not None and turn not in plain_turns(calls, first)
                self.times[name].append(None if left_out else self._call(name))

    def steady(self) -> dict[str, list[float]]:
        """Seconds of further calls of ours and then, in turn, after what they learn from the first ones."""
        ours = [name for name in self._running if name != "plain"]
        for name in ours:
            self._running[name].settle()
        return self._rounds({name: (name, None) for name in ours})

    def by_hand(self, choices: dict[str, Record]) -> Record:
        """The least seconds of each choice, and then of automatic and the fastest choice, in turns of these two alone:
        the least of so many is the luckiest, too. Automatic has had ten calls before."""
        for _ in range(CALLS - len(self.times["ours"])):
            self._call("ours")
        for options in choices.values():
            for _ in range(_WARM_UP):
                self._call("ours", options)
        self._running["ours"].settle()
        # of the model there is one copy: the first call in another mode makes it
        found = _least(self._rounds({name: ("ours", options) for name, options in choices.items()}, calls=2))
        fastest = min(found, key=lambda name: found[name])
        final = _least(self._rounds({"automatic": ("ours", None), "by_hand": ("ours", choices[fastest])}, calls=2))
        return {"choices": found, "fastest": fastest, **final}

    def _rounds(self, works: Mapping[str, tuple[str, Record | None]], calls: int = 1) -> dict[str, list[float]]:
        """Seconds of each, in turn: of the last of so many calls."""
        last = self.times["ours"][-1]
        assert last is not None  # only plain leaves turns out
        times: dict[str, list[float]] = {name: [] for name in works}
        for turn in range(rounds_for(last * len(works))):
            for name in list(works) if turn % 2 == 0 else reversed(works):
                times[name].append([self._call(*works[name]) for _ in range(calls)][-1])
        return times

    def _call(self, name: str, options: Record | None = None) -> float:
        told = self._running[name].call(options)
        if name == "ours" and not options:
            self.runs.append(told)
        if name != "plain":
            time.sleep(self._idle_between)
        return told["seconds"]


@contextmanager
def _taking_turns(contenders: dict[str, Contender], idle_between: float, load: Busy | None = None) -> Iterator[Turns]:
    """These processes, ready for their first call, and ended with the block."""
    with ExitStack() as stack:
        for one in contenders.values():
            stack.callback(one.end)
        with load.paused() if load else ExitStack():  # importing is not what is measured
            for one in contenders.values():
                one.ready()
        yield Turns(contenders, idle_between)


def idle(place: Place, task: Task, calls: int, choices: dict[str, Record]) -> Record:
    """So many calls from the first on; where these are ten, the steady state; and what can be chosen by hand."""
    contenders = {
        "plain": Contender("plain", task, place.folder),
        "ours": Contender("ours", task, place.cache("idle", task)),
    }
    if place.against and calls == CALLS:
        contenders["then"] = Contender("ours", task, place.cache("then", task, place.against), place.against)
    with _taking_turns(contenders, place.idle_between) as turns:
        turns.take(calls)
        record: Record = {**turns.times, "runs": turns.runs}
        if calls == CALLS:
            record["steady"] = turns.steady()
        if choices:
            record |= turns.by_hand(choices)
    return record


def busy_calls(place: Place, task: Task, load: Busy) -> Record:
    """Ten calls from the first on, beside busy processes, and "firsts": the first ones of these processes and of
    others, seconds of plain's and ours."""
    record = _busy_calls(place, task, load, "busy", CALLS)
    firsts = [(record["plain"][0], record["ours"][0])]
    for number in range(2, _FIRSTS + 1 if firsts[0][0] < _LONG_FIRST else 0):
        more = _busy_calls(place, task, load, f"busy {number}", 1)
        firsts.append((more["plain"][0], more["ours"][0]))
    return {**record, "firsts": firsts}


def _busy_calls(place: Place, task: Task, load: Busy, purpose: str, calls: int) -> Record:
    with load.paused():
        cache = place.cache(purpose, task)
    contenders = {"plain": Contender("plain", task, place.folder), "ours": Contender("ours", task, cache)}
    with _taking_turns(contenders, place.idle_between, load) as turns:
        turns.take(calls)
        return {**turns.times, "runs": turns.runs}


def later_session(place: Place, task: Task, load: Busy, runs: int) -> Record:
    """So many runs of a further process, with what was found out in `busy_calls`."""
    contender = Contender("ours", task, place.cache("busy", task))
    with _taking_turns({"ours": contender}, place.idle_between, load):
        return {"runs": [contender.call() for _ in range(runs)]}


def listened_to(place: Place, task: Task, load: Busy) -> Record:
    """A first run's longest time without a word, and how late a second one notices that it is to stop, seconds."""
    contender = Contender("ours", task, place.cache("silence", task))
    with _taking_turns({"ours": contender}, place.idle_between, load):
        return contender.listen()
