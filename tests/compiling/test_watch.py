"""The process that watches over a compile: whatever becomes of that, it ends in time, and the store says how."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cudaspeed.compiling import watch
from cudaspeed.storage.artifacts import ArtifactStore
from cudaspeed.storage.processes import start_apart
from cudaspeed.storage.scratch import scratch_folder

ID = "a" * 24
ROOT = Path(__file__).absolute().parents[2]
PATIENCE = 120.0  # seconds; what hangs does so for 600
# The watching process, and in the place of the worker what the test says. Its time begins when it is at work: on a busy
# machine a process takes its time to start.
START = """
import subprocess, sys, time, types
from pathlib import Path
package = types.ModuleType("cudaspeed")
package.__path__ = [sys.argv[1]]
sys.modules["cudaspeed"] = package
from cudaspeed.compiling import watch
watch.command_of = lambda module, request: [sys.executable, "-c", sys.argv[3], sys.argv[1], request]
class Worker(subprocess.Popen):
    def wait(self, timeout=None):
        while self.poll() is None and not Path(sys.argv[2]).with_name("at work").exists(): time.sleep(0.02)
        return super().wait(timeout)
subprocess.Popen = Worker
watch.main(sys.argv[2], "0")
"""
WORKER = """
import ctypes, json, os, subprocess, sys, time, types
from pathlib import Path
package = types.ModuleType("cudaspeed")
package.__path__ = [sys.argv[1]]
sys.modules["cudaspeed"] = package
from cudaspeed.storage.artifacts import ArtifactStore
request = json.loads(Path(sys.argv[2]).read_text())
store, scratch = ArtifactStore(Path(request["folder"])), Path(sys.argv[2]).parent
def publish():
    (scratch / "model.pt2").write_bytes(b"compiled")
    store.publish(request["id"], scratch / "model.pt2", 1.0)
def at_work(): (scratch / "at work").touch()
def sleep():
    at_work()
    time.sleep(600)
def hold_the_interpreter():
    at_work()
    ctypes.PyDLL(None).sleep(600)
"""


class Watched:
    """A compile whose worker does `code`, within `limit` seconds."""

    def __init__(self, folder: Path, code: str, limit: float = 600.0) -> None:
        self.store = ArtifactStore(folder)
        assert self.store.claim(ID, {"model": "Compact"})
        self.scratch = scratch_folder(folder)
        request = self.scratch / "request.json"
        request.write_text(json.dumps({"id": ID, "folder": str(folder), "limit": limit, "environment": "here"}))
        command = [sys.executable, "-c", START, str(ROOT), str(request), WORKER + code]
        self.process = start_apart(command, self.scratch, self.scratch / watch.LOG)
        self.store.adopt(ID, self.process.pid)

    def end(self) -> ArtifactStore:
        assert self.process.wait(PATIENCE) == 0
        assert not self.scratch.exists()
        return self.store


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
@pytest.mark.parametrize("how", ["SIGILL", "SIGSEGV", "SIGABRT"])
def test_a_worker_that_crashes_is_told_although_nobody_waits_for_it(how: str, tmp_path: Path) -> None:
    watched = Watched(
        tmp_path / "store", f"import signal\nprint('near the end', flush=True)\nos.kill(os.getpid(), signal.{how})"
    )
    entry = watched.end().get(ID)
    assert (entry.state, entry.scope, entry.environment) == ("failed", "model", "here")
    assert entry.reason == f"the compiling process died ({how}): near the end"
    assert "near the end" in (watched.store.folder / f"{ID}.log").read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
@pytest.mark.parametrize("code", ["os.kill(os.getpid(), 9)", "store.release(request['id'])", ""])
def test_what_is_no_word_against_the_model_is_tried_again(code: str, tmp_path: Path) -> None:
    assert Watched(tmp_path / "store", code).end().get(ID).state == "seen"


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
@pytest.mark.parametrize(("signal", "undecided"), [(11, False), (9, True)])
def test_what_crashes_while_faster_code_is_looked_for_is_not_tried_again(
    signal: int, undecided: bool, tmp_path: Path
) -> None:
    """But where the process was killed, it is."""
    entry = Watched(tmp_path / "store", f"publish()\nos.kill(os.getpid(), {signal})").end().get(ID)
    assert (entry.state, entry.undecided) == ("ready", undecided)


@pytest.mark.skipif(sys.platform != "linux", reason="who has left its parents is not found there")
@pytest.mark.parametrize("code", ["sleep()", "hold_the_interpreter()"])
def test_a_worker_that_hangs_is_ended_with_all_that_it_started(code: str, tmp_path: Path) -> None:
    start = f"subprocess.run(['sh', '-c', 'setsid sleep 600 & echo $! > {tmp_path}/pid'])\n"  # who left it has ended
    entry = Watched(tmp_path / "store", start + code, limit=3.0).end().get(ID)  # it is over, long before those 600 s
    assert (entry.state, entry.reason) == ("failed", "compiling took longer than 3 s")
    assert not runs(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("after", ["sleep()", "os._exit(3)", "os.abort()"])
def test_what_is_published_stays_whatever_becomes_of_improving_it(after: str, tmp_path: Path) -> None:
    store = Watched(tmp_path / "store", f"publish()\n{after}", limit=3.0).end()
    assert store.get(ID).state == "ready"
    assert not (store.folder / f"{ID}.log").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_who_ends_the_watching_process_ends_the_worker(tmp_path: Path) -> None:
    from cudaspeed.storage.processes import end_all

    watched = Watched(tmp_path / "store", f"Path('{tmp_path}/pid').write_text(str(os.getpid()))\ntime.sleep(600)")
    wait_for((tmp_path / "pid").exists)
    wait_for(lambda: (tmp_path / "pid").read_text())
    watched.process.kill()
    watched.process.wait()
    end_all(watched.process)
    wait_for(lambda: not runs(int((tmp_path / "pid").read_text())))


def runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)
