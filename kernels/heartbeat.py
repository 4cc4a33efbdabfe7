"""Signs of life: what computes for long calls `beat` between its steps, and whoever has it computed may listen.

So a run can tell how far a forward is, and stop one. Nobody listens while a model is traced, recorded or measured:
`beat` is then a look at one variable. A listener is its own thread's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Listener = Callable[[int], None]
"""Is told how many steps were done, 0 in the middle of one; what it raises ends the computation."""


class _Heard(threading.local):
    by: Listener | None = None


_HEARD = _Heard()


def beat(steps: int = 1) -> None:
    """Tell the listener, if there is one, that so many steps more are done. Raises whatever the listener raises."""
    if _HEARD.by is not None:
        _HEARD.by(steps)


def current_listener() -> Listener | None:
    """Who listens in this thread; None: nobody, and a long step need not be cut into pieces."""
    return _HEARD.by


@contextmanager
def heard_by(listener: Listener | None) -> Iterator[None]:
    """Within it `listener` is told of the beats of this thread; None: nobody is."""
    before, _HEARD.by = _HEARD.by, listener
    try:
        yield
    finally:
        _HEARD.by = before
