"""Signals that end a process stop a command in good order, and nothing of it stays with whoever called `main`."""

from __future__ import annotations

import signal
import threading

import pytest

from cudaspeed.cli import main
from cudaspeed.commands import models
from cudaspeed.commands.signals import Stopped, stopping_on_signals

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has other signals")
NUMBERS = tuple(getattr(signal, name, 0) for name in ("SIGTERM", "SIGHUP", "SIGINT"))


@pytest.fixture(autouse=True)
def handlers() -> object:
    """As a process begins with them; where the tests run in a shell's background, interrupts are ignored."""
    usual = dict(zip(NUMBERS, (signal.SIG_DFL, signal.SIG_DFL, signal.default_int_handler), strict=True))
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", NUMBERS)
def test_the_exit_code_tells_the_signal(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(models, "find_models", lambda: signal.raise_signal(number))
    before = [signal.getsignal(other) for other in NUMBERS]
    assert main(["models"]) == 128 + number
    assert capsys.readouterr().err == "cudaspeed: stopped\n"
    assert [signal.getsignal(other) for other in NUMBERS] == before


def test_what_others_handle_or_ignore_stays_theirs() -> None:
    heard: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stopping_on_signals():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)
    assert heard == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_it_is_an_interrupt_like_any_other() -> None:
    with pytest.raises(KeyboardInterrupt) as stopped, stopping_on_signals():
        signal.raise_signal(signal.SIGTERM)
    assert isinstance(stopped.value, Stopped)
    assert stopped.value.number == signal.SIGTERM


def test_a_command_may_run_in_any_thread(capsys: pytest.CaptureFixture[str]) -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(["cache", "list"])))
    thread.start()
    thread.join()
    assert codes == [0]
    assert "0 compiled" in capsys.readouterr().out
