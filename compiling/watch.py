"""The process that watches over the one that compiles: ends it in time, and notes how it ended where that could not.

Compiled code may crash its process, or hang it where no thread of Python's is heard any more, when nobody is left of
those who asked for it. It needs no torch.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from ..storage.artifacts import ArtifactStore
from ..storage.processes import adopt_orphans, command_of, end_descendants, last_words, name_of_death

logger = logging.getLogger("cudaspeed")

LOG = "log.txt"
_KILLED = -9  # by the system, for want of memory, or by a person: no word against the model


def main(request_file: str, niceness: str) -> None:
    """Have done what the file asks for, with so much patience for all else on the machine; then its folder is
    deleted. Of a compile that failed the log stays beside the index, for whoever reports it."""
    logging.basicConfig(level=logging.INFO)
    _make_way(int(niceness))
    adopt_orphans()
    scratch = Path(request_file).parent
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    store = ArtifactStore(Path(request["folder"]))
    worker = subprocess.Popen(command_of("compiling.worker", request_file))  # in our group, so that it ends with us
    try:
        code = worker.wait(request["limit"])
    except subprocess.TimeoutExpired:
        code = None
    end_descendants()
    try:
        _note(store, request, code, scratch / LOG)
    except OSError as error:
        logger.error("what became of it cannot be noted: %s", error)
    shutil.rmtree(scratch, ignore_errors=True)


def _make_way(niceness: int) -> None:
    with suppress(psutil.Error):  # it may not be slowed
        psutil.Process().nice(psutil.BELOW_NORMAL_PRIORITY_CLASS if sys.platform == "win32" else niceness)
    with suppress(OSError):  # on Linux a session is scheduled as one, with a niceness of its own
        Path("/proc/self/autogroup").write_text(str(niceness))


def _note(store: ArtifactStore, request: dict[str, Any], code: int | None, log: Path) -> None:
    """How the worker ended, with `code`, or None where it had to be ended, if it has not said so itself."""
    name, environment = request["id"], request["environment"]
    entry = store.get(name)
    if entry and entry.state == "compiling":
        if code is None:
            store.fail(name, f"compiling took longer than {request['limit']:.0f} s", "model", environment)
        elif code and code != _KILLED:
            reason = f"the compiling process died ({name_of_death(code)}): {last_words(log)}"
            store.fail(name, reason, "model", environment)
        else:
            store.release(name)
        entry = store.get(name)
    elif code != 0 and code != _KILLED:  # it crashed, or hung, at what was only tried
        store.searched(name, 0.0, undecided=False)
    if entry and entry.state == "failed" and log.is_file():
        log.replace(store.folder / f"{name}.log")
