"""As much of Ray as a farm uses, in this process: an actor is an object with a thread of its own.

What an actor's method raises as `Killed` is its process's end: whatever it has fails, and it stays dead.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any


class Killed(BaseException):
    """A worker's process ends."""


class RayError(Exception):
    pass


class ActorDiedError(RayError):
    pass


class StandInRay:
    """Ray with so many processors and GPUs. `killed` are the handles that were."""

    exceptions = SimpleNamespace(RayError=RayError, ActorDiedError=ActorDiedError)

    def __init__(self, cpus: int = 2, gpus: int = 0) -> None:
        self.resources = {"CPU": float(cpus), "GPU": float(gpus)}
        self.hired: list[_Handle] = []
        self.killed: list[_Handle] = []

    def cluster_resources(self) -> dict[str, float]:
        return {name: amount for name, amount in self.resources.items() if amount}

    def remote(self, kind: type) -> Any:
        def hire(*arguments: Any) -> _Handle:
            self.hired.append(_Handle(lambda: kind(*arguments)))
            return self.hired[-1]

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=hire))

    def kill(self, handle: _Handle) -> None:
        self.killed.append(handle)
        handle.end()

    @staticmethod
    def wait(refs: list[Future], num_returns: int, timeout: float) -> tuple[list[Future], list[Future]]:
        when = concurrent.futures.FIRST_COMPLETED if num_returns == 1 else concurrent.futures.ALL_COMPLETED
        done, others = concurrent.futures.wait(refs, timeout, when)
        return [ref for ref in refs if ref in done], [*others]

    @staticmethod
    def get(ref: Future) -> Any:
        return ref.result()


class _Handle:
    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._actor, self._dead, self._thread = make, None, "", ThreadPoolExecutor(1)

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *arguments: self._thread.submit(self._call, name, arguments))

    def end(self) -> None:
        self._dead = self._dead or "it was dismissed"
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        if self._dead:
            raise ActorDiedError(self._dead)
        try:
            self._actor = self._actor or self._make()
        except Exception as error:
            self._dead = f"it could not begin\n{type(error).__name__}: {error}"
            raise ActorDiedError(self._dead) from error
        try:
            return getattr(self._actor, name)(*arguments)
        except Killed as end:
            self._dead = "it was killed"
            raise ActorDiedError(self._dead) from end
