"""Queues that are bounded in bytes, and never wait for each other."""

from __future__ import annotations

import threading

import pytest

from cudaspeed.video.queues import ByteQueue, Stopped


def started(work: object) -> threading.Thread:
    assert callable(work)
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_who_is_faster_waits_until_what_was_taken_is_done() -> None:
    queue: ByteQueue[int] = ByteQueue(most_bytes=10, most_items=100)
    put: list[int] = []

    def fill() -> None:
        for number in range(5):
            queue.put(number, 4)
            put.append(number)
        queue.end()

    thread = started(fill)
    assert queue.get() == 0
    thread.join(0.3)
    assert len(put) <= 2  # 8 bytes; taken is not done
    seen = [0]
    queue.done(4)
    while (item := queue.get()) is not None:
        seen.append(item)
        queue.done(4)
    assert seen == [0, 1, 2, 3, 4]


def test_what_somebody_waits_for_is_let_in_however_much_is_held() -> None:
    """The engine may hold more frames than fit: it must get the next one all the same."""
    queue: ByteQueue[int] = ByteQueue(most_bytes=10, most_items=2)
    thread = started(lambda: [queue.put(number, 100) for number in range(20)])
    assert [queue.get() for _ in range(20)] == [*range(20)]
    thread.join(5)
    assert not thread.is_alive()


def test_small_items_are_counted_too() -> None:
    queue: ByteQueue[int] = ByteQueue(most_bytes=1000, most_items=3)
    thread = started(lambda: [queue.put(number, 1) for number in range(4)])
    thread.join(0.3)
    assert thread.is_alive()
    queue.get()
    queue.done(1)
    thread.join(5)
    assert not thread.is_alive()


def test_what_goes_wrong_on_one_side_is_raised_on_the_other() -> None:
    queue: ByteQueue[int] = ByteQueue(10, 10)
    queue.put(1, 1)
    queue.end(ValueError("it cannot be read"))
    assert queue.get() == 1  # what came before is whole
    with pytest.raises(ValueError, match="cannot be read"):
        queue.get()
    queue = ByteQueue(10, 10)
    queue.stop(OSError("no room"))
    with pytest.raises(OSError, match="no room"):
        queue.put(1, 1)
    with pytest.raises(OSError, match="no room"):
        queue.raise_error()


def test_a_waiting_thread_ends_when_it_is_for_nothing() -> None:
    queue: ByteQueue[int] = ByteQueue(1, 1)
    queue.put(0, 1)
    met: list[type] = []

    def fill() -> None:
        try:
            queue.put(1, 1)
        except Stopped as stopped:
            met.append(type(stopped))

    thread = started(fill)
    queue.stop()
    thread.join(5)
    assert met == [Stopped]
