"""Work in a child process under a limit of memory and time, for what might take the tests along."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code (negative: the signal that killed it), what it said, and its most memory."""

    code: int
    out: str
    err: str
    peak_bytes: int

    @property
    def records(self) -> list[dict[str, Any]]:
        """What it printed as `--json` does."""
        return [json.loads(line) for line in self.out.splitlines()]


def run_limited(
    arguments: Sequence[str], environment: Mapping[str, str] | None = None, gigabytes: float = 8, seconds: float = 120
) -> Ended:
    """`python ARGUMENTS` with so much address space, of which torch's libraries alone take some; the test fails when
    it takes longer than `seconds`, which are for a busy machine."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (int(gigabytes * 2**30),) * 2)

    told = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = subprocess.Popen(
            [sys.executable, *arguments], env=told, stdin=subprocess.DEVNULL, stdout=out, stderr=err, preexec_fn=limit
        )
        give_up = time.monotonic() + seconds
        while True:
            ended, status, usage = os.wait4(child.pid, os.WNOHANG)
            if ended:
                break
            if time.monotonic() > give_up:
                os.kill(child.pid, signal.SIGKILL)
                os.wait4(child.pid, 0)
                raise AssertionError(f"{' '.join(arguments)} did not end within {seconds} s")
            time.sleep(0.02)
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        return Ended(child.returncode, out.read(), err.read(), usage.ru_maxrss * 1024)
