"""On a CPU the pages that a run's forwards work in stay from one to the next, and go when it ends, however it does."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import zoo
from clocks import new_sessions
from torch import Tensor

from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.pipeline import room
from cudaspeed.storage import heap
from cudaspeed.storage.heap_reserve import HeapReserve
from cudaspeed.upscale_engine import upscale

FILM = zoo.photograph(120, 160, frames=3)


def spread(y: Tensor) -> Tensor:
    """Takes 160 times what `y` does, for a moment."""
    return torch.stack([y + 0 for _ in range(80)]).mean(0)


class Holds:
    """What is asked to be held, and whether it is held now."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.now = False
        monkeypatch.setattr(HeapReserve, "hold", lambda _, size: self._hold(size))
        monkeypatch.setattr(HeapReserve, "let_go", lambda _: self._let_go())

    def _hold(self, size: int) -> None:
        self.sizes.append(size)
        self.now = True

    def _let_go(self) -> None:
        self.now = False


def run(film: Tensor, change: Callable[[Tensor], Tensor] = spread) -> None:
    options = UpscaleOptions(compile=False, precision="fp32")
    upscale(film, zoo.toy(2, change), options, StandaloneContext("cpu"), new_sessions())


@pytest.fixture
def holds(monkeypatch: pytest.MonkeyPatch) -> Holds:
    monkeypatch.setattr(room, "has_own_limits", lambda: False)
    monkeypatch.setattr(room, "allowed_bytes", lambda _: None)
    monkeypatch.setattr(StandaloneContext, "free_bytes", lambda _: 16 << 30)
    return Holds(monkeypatch)


@pytest.mark.skipif(sys.platform != "linux" or heap.gnu_library() is None, reason="another C library")
@pytest.mark.skipif(room.has_own_limits(), reason="nothing is reserved here")
def test_later_forwards_of_a_run_get_hardly_any_new_pages() -> None:
    """In processes of their own: what the C library has learned to keep depends on what was before."""
    with_it, without = faults("as it is"), faults("without")
    assert without > 4000, "else this shows nothing"
    assert with_it < without / 10


def faults(how: str) -> int:
    """What a forward of a film met after the first two: in the middle of them, since some begin on an empty heap, by
    which it is seen what they take."""
    support = Path(__file__).parents[1] / "support"
    command = [sys.executable, "-c", FAULTS, str(support), how]
    told = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert told.returncode == 0, told.stderr
    return statistics.median_low(map(int, told.stdout.split()[2:]))


FAULTS = """
import resource, sys
sys.path.append(sys.argv[1])
import torch, zoo
from clocks import new_sessions
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.storage.heap_reserve import HeapReserve
from cudaspeed.upscale_engine import upscale

if sys.argv[2] == "without":
    HeapReserve.hold = lambda *_: None
met = lambda: resource.getrusage(resource.RUSAGE_THREAD).ru_minflt

def forward(y):
    before = met()
    made = y + sum(part.mean() * 0 for part in [y + 0 for _ in range(40)])
    if y.shape[-2:] == (480, 640) and y.device.type == "cpu":
        print(met() - before)
    return made

torch.set_num_threads(1)
options = UpscaleOptions(compile=False, precision="fp32")
upscale(zoo.photograph(240, 320, frames=9), zoo.toy(2, forward), options, StandaloneContext("cpu"), new_sessions())
"""


@pytest.mark.skipif(sys.platform != "linux" or heap.gnu_library() is None, reason="another C library")
@pytest.mark.skipif(room.has_own_limits(), reason="nothing is found out in the background here")
def test_what_was_found_out_between_runs_leaves_no_memory_behind() -> None:
    """In a process of its own: as above. The thread's heap is left to threads to come, which may use little of it."""
    told = subprocess.run([sys.executable, "-c", LEARNT], capture_output=True, text=True, timeout=300)
    assert told.returncode == 0, told.stderr
    before, within, after = map(int, told.stdout.split())
    assert within - before > 24 << 20, "else this shows nothing"
    assert after - before < 6 << 20


LEARNT = """
import ctypes
import psutil, torch
from torch import nn
from cudaspeed.models.study import Pause, Study
from cudaspeed.pipeline.learner import Learner
from cudaspeed.storage.heap import gnu_library

library, resident, said = gnu_library(), lambda: psutil.Process().memory_info().rss, []

def used(*sizes):
    blocks = [library.malloc(size) for size in sizes]
    for block, size in zip(blocks, sizes):
        ctypes.memset(block, 1, size)
    for block in blocks:
        library.free(block)

class Steps:
    repaid = lambda self, study: True
    seconds_of = lambda self, pixels: 0.0
    first = lambda self, study: Pause()
    release = lambda self: None

    def step(self, study, ask, give_way):
        used(31 << 20)  # mapped, after which so much is kept
        said.append(resident())
        used(*[4 << 20] * 8)
        said.append(resident())

learner, model = Learner(), nn.Linear(1, 1)
learner.subject(model, "cpu", Steps).offer([Study("one", 1, iter(()))], 1)
learner.wake()
learner._thread.join()
print(*said, resident())
"""


def test_room_for_a_forward_is_held_as_long_as_the_run_lasts(holds: Holds) -> None:
    held: list[bool] = []

    def change(y: Tensor) -> Tensor:
        held.append(holds.now)
        return spread(y)

    run(FILM, change)
    assert held[-3:] == [True] * 3
    assert not holds.now
    taken = 80 * 2 * 120 * 160 * 4 * 3 * 4
    assert taken < holds.sizes[0] < 4 * taken


def test_it_is_let_go_of_when_a_run_is_interrupted(holds: Holds) -> None:
    class Interrupted(BaseException):
        pass

    class Context(StandaloneContext):
        def raise_if_interrupted(self) -> None:
            if holds.now:
                raise Interrupted

    with pytest.raises(Interrupted):
        upscale(FILM, zoo.toy(2, spread), UpscaleOptions(compile=False), Context("cpu"), new_sessions())
    assert holds.sizes
    assert not holds.now


def test_small_pictures_have_no_need_of_it(holds: Holds) -> None:
    run(zoo.photograph(64, 64), lambda y: y)
    assert not holds.sizes


def test_a_process_with_limits_of_its_own_is_left_alone(holds: Holds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "has_own_limits", lambda: True)
    run(FILM)
    assert not holds.sizes


@pytest.mark.parametrize("scarce", ["in its container", "on the machine"])
def test_where_memory_is_scarce_nothing_is_held(scarce: str, holds: Holds, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is freed within what is held stays with the process, which would be ended for it."""
    run(FILM)
    (wanted,) = holds.sizes
    if scarce == "in its container":
        monkeypatch.setattr(room, "allowed_bytes", lambda _: 2 * wanted)
    else:
        monkeypatch.setattr(StandaloneContext, "free_bytes", lambda _: 2 * wanted)
    run(FILM)
    assert holds.sizes == [wanted]
