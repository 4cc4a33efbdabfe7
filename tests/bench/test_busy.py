"""Processes that keep the machine busy, and end whatever happens."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import psutil
import pytest

from bench import busy
from bench.harness import ROOT

_PATIENCE = 60.0  # seconds; a safety net


def computed(processes: busy.Busy) -> float:
    """Seconds of processors."""
    times = [psutil.Process(each).cpu_times() for each in processes.ids]
    return sum(one.user + one.system for one in times)


def has_ended(process: int) -> bool:
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def becomes_true(check, patience: float = _PATIENCE) -> bool:
    until = time.monotonic() + patience
    while not check():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def test_they_work_until_the_block_is_left_and_rest_while_paused() -> None:
    with busy.busy(2) as load:
        assert len(load.ids) == 2
        start = computed(load)
        assert becomes_true(lambda: computed(load) > start + 0.1)
        with load.paused():
            assert becomes_true(lambda: _rests(load))
        start = computed(load)
        assert becomes_true(lambda: computed(load) > start + 0.1)
    assert all(map(has_ended, load.ids))


def _rests(load: busy.Busy) -> bool:
    before = computed(load)
    time.sleep(0.3)
    return computed(load) <= before + 0.01


@pytest.mark.skipif(sys.platform == "win32", reason="a signal that cannot be caught")
def test_they_end_when_what_started_them_is_killed() -> None:
    code = (
        "import time; from bench import busy\nwith busy.busy(2) as load: print(*load.ids, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent:
        processes = [*map(int, parent.stdout.readline().split())]
        assert len(processes) == 2
        parent.send_signal(signal.SIGKILL)
    assert becomes_true(lambda: all(map(has_ended, processes)))


def test_a_command_beside_them_gives_its_code_back() -> None:
    script = "import sys; sys.exit(7)"
    started = subprocess.run(
        [sys.executable, "-m", "bench.busy", "--count", "1", sys.executable, "-c", script], cwd=ROOT
    )
    assert started.returncode == 7


def test_what_cannot_begin_is_told_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        busy,
        "_start",
        lambda: subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE, stdout=subprocess.PIPE),
    )
    with pytest.raises(RuntimeError, match="ended with 0 before it was at work"), busy.busy(1):
        pass
