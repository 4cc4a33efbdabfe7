"""What a thread works in again and again stays with it meanwhile, and goes afterwards."""

from __future__ import annotations

import sys

import pytest
from children import run_limited

from cudaspeed.storage import heap, heap_reserve
from cudaspeed.storage.heap_reserve import HeapReserve

MEGABYTE = 1 << 20

pytestmark = pytest.mark.skipif(sys.platform != "linux" or heap.gnu_library() is None, reason="another C library")


@pytest.mark.parametrize("thread", ["main", "another"])
def test_what_is_reserved_is_faulted_in_once_and_is_back_afterwards(thread: str) -> None:
    """In new processes, in which the C library has learned nothing yet."""
    without, with_it = (run_limited(["-c", WORK, thread, str(size)]) for size in (0, 480 * MEGABYTE))
    pages = 240 * MEGABYTE // 4096
    assert int(without.out.split()[0]) > pages, f"else this shows nothing {without.err}"
    faults, before, kept, after = map(int, with_it.out.split())
    assert faults < pages / 20, with_it.err
    assert kept - before > 200 * MEGABYTE, "it was there all the time"
    most = 20 if thread == "main" else 64  # of another thread its last heap may stay
    assert after - before < most * MEGABYTE


WORK = """
import ctypes, resource, sys, threading
import psutil
from cudaspeed.storage.heap import gnu_library, trim_all
from cudaspeed.storage.heap_reserve import HeapReserve

library, resident = gnu_library(), lambda: psutil.Process().memory_info().rss

def forward():
    blocks = [library.malloc(16 << 20) for _ in range(15)]
    for block in blocks:
        ctypes.memset(block, 1, 16 << 20)
    for block in blocks:
        library.free(block)

def work():
    reserve, before = HeapReserve(), resident()
    reserve.hold(int(sys.argv[2]))
    forward()
    met = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    for _ in range(3):
        forward()
    met, kept = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - met, resident()
    reserve.let_go()
    trim_all()
    print(met, before, kept, resident())

if sys.argv[1] == "main":
    work()
else:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
"""


def test_where_there_is_not_so_much_nothing_is_held() -> None:
    ended = run_limited(["-c", TOO_MUCH], gigabytes=4)
    assert (ended.code, ended.out) == (0, "True True\n"), ended.err


TOO_MUCH = """
import psutil
from cudaspeed.storage.heap import gnu_library
from cudaspeed.storage.heap_reserve import HeapReserve
size = lambda: psutil.Process().memory_info().vms
reserve, before = HeapReserve(), size()
reserve.hold(1 << 40)
print(size() - before < 64 << 20, bool(gnu_library().malloc(1 << 30)))
reserve.let_go()
"""


def test_where_a_user_has_such_blocks_mapped_nothing_is_held() -> None:
    ended = run_limited(["-c", MAPPED], {"MALLOC_MMAP_THRESHOLD_": "65536"})
    assert (ended.code, ended.out) == (0, "True\n"), ended.err


MAPPED = """
import psutil
from cudaspeed.storage.heap_reserve import HeapReserve
size = lambda: psutil.Process().memory_info().vms
reserve, before = HeapReserve(), size()
reserve.hold(480 << 20)
print(size() - before < 1 << 20)
"""


def test_another_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap_reserve, "gnu_library", lambda: None)
    reserve = HeapReserve()
    reserve.hold(480 * MEGABYTE)
    reserve.let_go()
