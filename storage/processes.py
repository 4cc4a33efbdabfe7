"""Processes: whether one is still the one that was meant, and the end of one with all that it has started."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_MOST_WORDS = 1 << 14
_PR_SET_CHILD_SUBREAPER = 36  # of prctl(2)
_CLOCK = 1.0  # seconds by which the system's word on when a process began may vary

# The pack's folder may have any name, so a process of ours gives it one; sys.path stays as it is.
_START = """
import importlib, sys, types
package = types.ModuleType("cudaspeed")
package.__path__ = [sys.argv[1]]
sys.modules["cudaspeed"] = package
importlib.import_module(sys.argv[2]).main(*sys.argv[3:])
"""
_APART = getattr(subprocess, "CREATE_NO_WINDOW", 0) | getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)  # Windows


def command_of(module: str, *arguments: str) -> list[str]:
    """The command that runs `main` of one of our modules, such as "compiling.worker", in a Python of its own."""
    return [
        sys.executable,
        "-c",
        _START,
        str(Path(__file__).absolute().parent.parent),
        f"cudaspeed.{module}",
        *arguments,
    ]


def start_apart(
    command: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start `command` in `folder`, which says what it has to say into the file `log`: one of its own, for no pipe ends
    while anything that it has started is there. Ctrl-C is for us, and no console window is for anyone; it outlives
    this process, and can be ended with all that it starts. Raises `OSError`."""
    with log.open("wb") as said:
        return subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
            start_new_session=True, creationflags=_APART,
        )  # fmt: skip


def last_words(log: Path) -> str:
    """The last line of what was said into `log`."""
    with suppress(OSError), log.open("rb") as file:
        file.seek(-min(_MOST_WORDS, log.stat().st_size), os.SEEK_END)
        lines = file.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else "it said nothing"
    return "it said nothing"


def name_of_death(code: int) -> str:
    """What the exit code of a process that failed means: the name of a signal, or the number."""
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"exit code {code}"


def began(pid: int) -> float:
    """When process `pid` began, unix seconds; 0 if there is none, or it has ended and its parent did not ask yet."""
    import psutil  # here because to list what is compiled nobody asks mostly, and is not to wait for it

    try:
        process = psutil.Process(pid)
        return 0.0 if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except (psutil.Error, OSError, OverflowError):
        return 0.0


def is_alive(pid: int, since: float) -> bool:
    """Whether process `pid` is there, and the one that began at that time: ids are used again."""
    start = began(pid)
    return bool(start) and abs(start - since) <= _CLOCK


def adopt_orphans() -> None:
    """From now on whatever this process has started stays its descendant, though those between them end: Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_descendants(pid: int | None = None) -> None:
    """End all that process `pid`, this one if None, has started, and what they have."""
    import psutil

    with suppress(psutil.Error):
        for child in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.Error):
                child.kill()


def end_all(process: subprocess.Popen[bytes]) -> None:
    """End `process`, which was started apart, and all that it has started, whether it still lives or not."""
    if process.poll() is None:
        end_descendants(process.pid)  # those that have left its group
    if sys.platform != "win32":
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
