"""Plain spandrel and this pack, or two checkouts of it, each in a process of its own, taking turns with one picture.

As a user has them: the first call of each is the first thing that its process computes, and neither finds in memory
what the other left there. `bench.caller` is the other side.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from .harness import ROOT

Record = dict[str, Any]


class Task(NamedTuple):
    """A model's file and the picture's (height, width), on a device."""

    model: Path
    size: tuple[int, int]
    device: str


class Contender:
    """A process that is asked for one call after the other."""

    def __init__(self, kind: str, task: Task | None, folder: Path, checkout: Path = ROOT) -> None:
        """`kind`: "plain", "ours", or, without a task, "kernels". `folder` is the cache's. Does not wait until it is
        ready."""
        order = {"kind": kind} | ({} if task is None else {**task._asdict(), "model": str(task.model)})
        self._checkout, self._folder = checkout, tempfile.TemporaryDirectory()
        self._said = Path(self._folder.name, "said")
        Path(self._folder.name, "cudaspeed").symlink_to(checkout.resolve(), target_is_directory=True)
        command = [sys.executable, "-m", "bench.caller", json.dumps(order)]
        around = {**os.environ, "PYTHONPATH": self._folder.name, "CUDASPEED_CACHE_DIR": str(folder)}
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=around,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                encoding="utf-8",
            )

    def ready(self) -> Record:
        """What it says of itself, once it can take a call. Raises `RuntimeError` where it ends instead."""
        told = self._answer()
        found = told.get("checkout", "")
        if found and Path(found) != self._checkout.resolve():
            raise RuntimeError(f"{found} was measured, not {self._checkout}")
        return told

    def call(self, options: Record | None = None) -> Record:
        """One call's record (`Caller.call`). Raises `RuntimeError` where the process ends instead."""
        return self._ask("call", options or {})

    def settle(self) -> Record:
        """See `Caller.settle`."""
        return self._ask("settle")

    def listen(self) -> Record:
        """See `Caller.listen`."""
        return self._ask("listen")

    def end(self) -> None:
        """At once: what it goes on with in the background would disturb the next one."""
        self._process.kill()
        with suppress(BrokenPipeError), self._folder, self._process:  # waits for it, and closes its pipes
            pass

    def _ask(self, *question: object) -> Record:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, and its answer says so
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Record:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        code = self._process.wait()
        said = self._said.read_text("utf-8", errors="replace").strip().splitlines() or ["it said nothing"]
        raise RuntimeError(f"the process ended with {code}: {said[-1]}")
