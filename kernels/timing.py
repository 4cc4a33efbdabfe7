"""How long work takes: a forward by the host's clock, anything on a CUDA device by the device's own."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..api.model_info import Forward

_LEAST_ROUNDS, _ENOUGH_ROUNDS = 2, 10  # what else the machine does only slows down: the best counts
_ENOUGH_SECONDS = 0.3
_MOST_ROUNDS, _MOST_SECONDS = 100, 3.0  # on a busy machine

Clock = Callable[[], float]
"""Seconds since some moment, as `time.perf_counter` tells them."""

Timer = Callable[[Callable[[], object]], float]
"""Seconds that one run of some work takes on the device."""


def seconds_on_cuda(work: Callable[[], object], rounds: int = 5, runs: int = 4) -> float:
    """Seconds of one run: the median of `rounds` of `runs` each, after one to warm up.

    By events in the current stream of the current device: where it waits for the host to launch something, that counts.
    """
    work()
    times = []
    for _ in range(rounds):
        began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        began.record()
        for _ in range(runs):
            work()
        ended.record()
        ended.synchronize()
        times.append(began.elapsed_time(ended) / 1000 / runs)
    return statistics.median(times)


def timed(forward: Forward, x: Tensor, clock: Clock = time.perf_counter) -> tuple[Tensor, float]:
    """The result of one run on any device, and the seconds until it is there."""
    began = clock()
    result = forward(x)
    result[..., :1, :1].cpu()  # waits for it
    return result, clock() - began


def seconds_of_forward(forward: Forward, x: Tensor, clock: Clock = time.perf_counter) -> float:
    """Seconds of one run on any device, until its result is there."""
    return timed(forward, x, clock)[1]


def taking_turns(works: Sequence[Callable[[], float]], before: Sequence[float] = ()) -> list[list[float]]:
    """The seconds that each of `works` says that it took, in turn, so that what else happens meets them all: for a
    third of a second together or twice, once if they took the seconds `before`; on a busy machine until it is clear
    what each takes, but no longer than three seconds."""
    times: list[list[float]] = [[seconds] for seconds in before] or [[] for _ in works]
    spent, rounds = 0.0, 0
    while (
        rounds + bool(before) < _LEAST_ROUNDS
        or (spent < _ENOUGH_SECONDS and rounds < _ENOUGH_ROUNDS)
        or (spent < _MOST_SECONDS and rounds < _MOST_ROUNDS and not all(map(reproduced, times)))
    ):
        for work, taken in zip(works, times, strict=True):
            taken.append(work())
            spent += taken[-1]
        rounds += 1
    return times


def reproduced(times: Sequence[float], within: float = 0.1) -> bool:
    """Whether the least of the times was seen twice, `within` this share: then it is what the work takes, and not what
    else the machine did. Another busy process can make a short forward take twenty times as long."""
    least, *others = sorted(times)
    return bool(others) and others[0] <= (1 + within) * least
