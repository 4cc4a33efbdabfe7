"""Memory that was let go of goes back to the system, some moments later."""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Callable

import psutil
import pytest
import torch
from children import run_limited

from cudaspeed.storage import heap
from cudaspeed.storage.heap import HeapTrimmer, trim_heap, trim_top

MEGABYTE = 1 << 20


def within(seconds: float, true: Callable[[], bool]) -> bool:
    give_up = time.monotonic() + seconds
    while not true() and time.monotonic() < give_up:
        time.sleep(0.01)
    return true()


def in_a_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


GNU = pytest.mark.skipif(sys.platform != "linux" or heap.gnu_library() is None, reason="another C library")


@GNU
def test_what_lies_between_other_things_goes_back_to_the_system() -> None:
    def resident() -> int:
        return psutil.Process().memory_info().rss

    kept = []
    for _ in range(256):  # each between two that stay, and too small to be mapped by itself
        gone = torch.ones(MEGABYTE // 16)
        kept.append((torch.ones(64), gone))
    held = resident()
    kept = [(small, None) for small, _ in kept]
    del gone
    trim_heap()
    assert held - resident() > 32 * MEGABYTE


@GNU
@pytest.mark.parametrize(("blocks", "kept"), [(8, ""), (40, "32")], ids=["one heap", "the end of a third one"])
def test_a_threads_memory_goes_back_to_the_system_that_no_other_could_give_back(blocks: int, kept: str) -> None:
    """In a process of its own: what the C library has learned to keep depends on what was before. A thread's heap
    consists of pieces of 64 MiB, whose free ones are used before the end of the last."""
    ended = run_limited(["-c", TOP, str(blocks), kept])
    before, resident, after = map(int, ended.out.split())
    assert resident - before > 20 * MEGABYTE, "else this shows nothing"
    assert after - before < 4 * MEGABYTE, ended.err


TOP = """
import ctypes, sys, threading
import psutil
from cudaspeed.storage.heap import trim_heap, trim_top, gnu_library

def held(library, sizes, kept=None):
    blocks = [library.malloc(size) for size in sizes]
    for number, (block, size) in enumerate(zip(blocks, sizes)):
        if number != kept:
            ctypes.memset(block, 1, size)
    for number, block in enumerate(blocks):
        if number != kept:
            library.free(block)

def work():
    resident, library = psutil.Process().memory_info, gnu_library()
    held(library, [31 << 20])  # mapped, after which so much is kept
    before = resident().rss
    held(library, [4 << 20] * int(sys.argv[1]), int(sys.argv[2]) if sys.argv[2] else None)
    trim_heap()
    kept = resident().rss
    trim_top()
    print(before, kept, resident().rss)

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def test_a_library_without_the_call_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "gnu_library", lambda: None)
    trim_heap()
    in_a_thread(trim_top)


class Thing:
    """Something that goes."""


def test_it_is_done_once_for_all_that_go_together_and_again_later() -> None:
    done: list[float] = []
    trimmer = HeapTrimmer(lambda: done.append(time.monotonic()), delay=0.3)
    things = [Thing() for _ in range(5)]
    for thing in things:
        trimmer.watch(thing)
    del thing
    while things:
        gone = time.monotonic()
        things.pop()
        time.sleep(0.02)
    assert within(10, lambda: bool(done))
    assert done[0] - gone >= 0.3, "after the last of them"
    time.sleep(0.5)
    assert len(done) == 1
    trimmer.soon()
    assert within(10, lambda: len(done) == 2)


def test_where_something_went_it_is_done_at_once_and_again_after_a_collection_of_garbage_there() -> None:
    here: list[int] = []
    me, thing, may_go_on = threading.get_ident(), Thing(), threading.Event()
    trimmer = HeapTrimmer(lambda: None, lambda: here.append(threading.get_ident()), delay=0.0)
    trimmer.watch(thing)

    def hold() -> None:
        may_go_on.wait(10)

    trimmer.soon(hold)
    assert here == [me]
    gc.collect(0)
    in_a_thread(gc.collect)
    assert here == [me]
    gc.collect()
    assert here == [me, me]
    may_go_on.set()
    assert within(10, lambda: trimmer._collected not in gc.callbacks), "nothing is left behind"


def test_what_fails_ends_nothing_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    def fail() -> None:
        raise RuntimeError("the host has changed its mind")

    def trim() -> None:
        done.append("trimmed")
        fail()

    trimmer, thing = HeapTrimmer(trim, delay=0.0), Thing()
    trimmer.watch(thing)
    for times in (1, 2):
        assert trimmer.soon(fail)
        assert trimmer.soon(lambda: done.append("let go"))
        assert within(10, lambda times=times: min(done.count("trimmed"), done.count("let go")) >= times)
    warned = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert ["could not be let go of" in record.message for record in warned] == [True]
    assert warned[0].exc_info, "with what it was"


@pytest.mark.parametrize("how", ["nothing was watched", "limits of its own"])
def test_where_no_thread_was_begun_nothing_is_left_behind(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here: list[int] = []
    trimmer, thing = HeapTrimmer(lambda: None, lambda: here.append(1), delay=0.0), Thing()
    monkeypatch.setattr(heap, "has_own_limits", lambda: True)
    if how == "limits of its own":
        trimmer.watch(thing)
    before = [*gc.callbacks]
    for _ in range(3):
        trimmer.soon(lambda: None)
    assert here == [1] * 3, "what this thread can do is done"
    assert gc.callbacks == before
    assert trimmer._asked.empty()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="it has none")
def test_a_forked_child_leaves_nothing_behind_and_begins_anew_with_what_it_watches() -> None:
    ended = run_limited(["-c", FORK], seconds=50)
    assert (ended.code, ended.out) == (0, "0 True\n"), ended.err


FORK = """
import gc, os, threading
from cudaspeed.storage import heap
from cudaspeed.storage.heap import HeapTrimmer
heap.has_own_limits = lambda: False  # but those of this test
class Thing: pass
trimmed = threading.Event()
thing, trimmer = Thing(), HeapTrimmer(trimmed.set, delay=0.0)
trimmer.watch(thing)
child = os.fork()
if child == 0:
    trimmer.soon(lambda: None)
    callbacks = len(gc.callbacks)
    trimmer.watch(trimmer)
    trimmer.soon()
    print(callbacks, trimmed.wait(20), flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


def test_a_process_that_ends_does_not_wait_for_it() -> None:
    code = (
        "import weakref; from cudaspeed.storage.heap import HeapTrimmer\n"
        "class Thing: pass\n"
        "thing, trimmer = Thing(), HeapTrimmer(lambda: print('trimmed'), delay=60.0)\n"
        "trimmer.watch(thing); other = Thing(); trimmer.watch(other); del other"
    )
    ended = run_limited(["-c", code], seconds=50)
    assert (ended.code, ended.out, ended.err) == (0, "", "")


@pytest.mark.skipif(heap.gnu_library() is None, reason="no GNU C library")
def test_what_is_freed_between_what_is_not_lies_free_in_the_heap() -> None:
    blocks = [bytearray(4000) for _ in range(4000)]
    trim_heap()  # the end of it, which another test's trimmer may be about to
    before = heap.bytes_free_in_heaps()
    del blocks[::2]
    assert heap.bytes_free_in_heaps() - before > 4 << 20
