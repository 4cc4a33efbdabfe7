"""Queues between the threads of a film, bounded in bytes: who is faster waits, and memory stays what it is."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")

_BETWEEN_LOOKS = 0.1  # seconds


class Stopped(Exception):  # noqa: N818  # no error
    """The other end of a queue is gone: there is nothing more to do."""


class ByteQueue(Generic[Item]):
    """Items in order, of at most `most_bytes` and `most_items` that are `put` and not `done` yet. One that somebody
    waits for is always let in, however large it is."""

    def __init__(self, most_bytes: int, most_items: int) -> None:
        self._most_bytes, self._most_items = most_bytes, most_items
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._bytes = self._held = self._waiting = 0
        self._ended = self._stopped = False
        self._error: BaseException | None = None

    def put(self, item: Item, size: int) -> None:
        """Add an item of `size` bytes, when there is room. Raises `Stopped`, or what went wrong with the reader."""
        with self._changed:
            while self._is_full(size):
                self._wait()
            self._raise()
            self._items.append(item)
            self._bytes, self._held = self._bytes + size, self._held + 1
            self._changed.notify_all()

    def get(self) -> Item | None:
        """The next item, when there is one; None at the end. Raises `Stopped`, or what went wrong with the writer."""
        with self._changed:
            while not self._items and not self._ended:
                self._waiting += 1
                self._changed.notify_all()
                try:
                    self._wait()
                finally:
                    self._waiting -= 1
            if not self._items:
                self._raise()
                return None
            return self._items.popleft()

    def done(self, size: int) -> None:
        """An item of `size` bytes is not needed any more."""
        with self._changed:
            self._bytes, self._held = self._bytes - size, self._held - 1
            self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more comes; or, with `error`, nothing more can."""
        with self._changed:
            self._ended, self._error = True, self._error or error
            self._changed.notify_all()

    def stop(self, error: BaseException | None = None) -> None:
        """Whatever the other side is doing, it is for nothing; `error` says why."""
        with self._changed:
            self._stopped, self._error = True, self._error or error
            self._changed.notify_all()

    def raise_error(self) -> None:
        """Raise what went wrong, if anything did."""
        with self._changed:
            if self._error is not None:
                raise self._error

    def _is_full(self, size: int) -> bool:
        if not self._held or (self._waiting and not self._items):
            return False
        return self._bytes + size > self._most_bytes or self._held >= self._most_items

    def _wait(self) -> None:
        self._raise()
        self._changed.wait(_BETWEEN_LOOKS)  # not for ever: the main thread could not be interrupted everywhere

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
        if self._stopped:
            raise Stopped
