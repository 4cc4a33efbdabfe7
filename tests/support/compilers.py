"""Stand-ins for the processes that compile, for tests of what becomes of their results."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from cudaspeed.compiling.request import Request
from cudaspeed.storage.artifacts import ArtifactStore


class Compilers:
    """Stand-ins for the compiling processes: each does what the test says, when the test says it.

    What they publish is a file that names the module; loading it gives `wrong(module's forward)`.
    """

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.modules: dict[str, nn.Module] = {}
        self.at_once: Callable[[Job], None] | None = None
        self.wrong: Callable[[Tensor], Tensor] = lambda x: x
        self.calls: list[tuple[int, ...]] = []

    def start(self, store: ArtifactStore, request: Request, module: nn.Module, scratch: Path) -> Job:
        job = Job(store, request, scratch)
        self.modules[request.id] = module
        self.jobs.append(job)
        if self.at_once:
            self.at_once(job)
        return job

    def load(self, path: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
        module = self.modules[path.read_text()]

        def forward(x: Tensor) -> Tensor:
            self.calls.append(tuple(x.shape))
            return self.wrong(module(x))

        return forward


class Job:
    """With the face of `CompileJob`."""

    def __init__(self, store: ArtifactStore, request: Request, scratch: Path) -> None:
        self.id, self.shapes, self.request = request.id, request.shapes, request
        self._store, self._scratch = store, scratch
        self._over = False
        self.stopped = self.without_result = False

    @property
    def published(self) -> bool:
        entry = self._store.get(self.id)
        return entry is not None and entry.state == "ready"

    def running(self) -> bool:
        return not self._over

    def stop(self) -> None:
        self.stopped = self._over = True
        self._store.release(self.id)

    def succeed(self, seconds: float = 30.0) -> None:
        self.publish(seconds)
        self._store.searched(self.id, seconds, undecided=False)
        self._over = True

    def publish(self, seconds: float = 30.0) -> None:
        """It is ready, and the process goes on to improve it."""
        package = self._scratch / "model.pt2"
        package.write_text(self.id)
        self._store.publish(self.id, package, seconds)
        shutil.rmtree(self._scratch)

    def end(self) -> None:
        self._over = True

    def fail(self, reason: str = "it uses an unknown operator", scope: str = "model") -> None:
        self._store.fail(self.id, reason, scope, self.request.environment)
        self._over = True

    def give_up(self) -> None:
        """As for want of memory: nothing is noted."""
        self._store.release(self.id)
        self._over = self.without_result = True
