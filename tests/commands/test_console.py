"""What is said on which stream, and what of it stays with whoever called `main`."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from cudaspeed.cli import main
from cudaspeed.commands import models
from cudaspeed.commands.console import Console, printable

logger = logging.getLogger("cudaspeed")


class Broken(io.StringIO):
    """Takes some texts, and then no more."""

    def __init__(self, takes: int, error: Exception) -> None:
        super().__init__()
        self.takes, self.error = takes, error

    def write(self, text: str) -> int:
        self.takes -= 1
        if self.takes < 0:
            raise self.error
        return super().write(text)


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), ValueError("I/O operation on closed file")])
def test_what_a_stream_took_stays_and_the_rest_is_reported_once(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    out, err = Broken(2, error), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with Console() as console:
        for number in range(5):
            console.tell({}, str(number))
        assert console.settle(0) == 1
        assert console.settle(143) == 143
    assert out.getvalue() == "0\n1\n"
    assert set(err.getvalue().splitlines()) == {
        f"cudaspeed: error: standard output could not be written: {error.args[-1]}"
    }


def test_the_process_is_as_before(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = (sys.stdout, sys.stderr, logger.level, list(logger.handlers))
    monkeypatch.setattr(models, "find_models", lambda: 1 / 0)
    for code, arguments in ((0, ["cache", "list"]), (1, ["models"]), (2, ["models", "--colour"])):
        assert main(arguments) == code
    assert (sys.stdout, sys.stderr, logger.level, logger.handlers) == before
    assert "unexpected ZeroDivisionError: division by zero; --verbose tells more" in capsys.readouterr().err
    main(["models", "--verbose"])
    assert "Traceback" in capsys.readouterr().err


def test_what_others_print_cannot_fail_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "stdout", Broken(0, OSError(28, "No space left on device")))
    with Console():
        sys.stdout.write("a library's")
        logging.StreamHandler().emit(logging.makeLogRecord({"msg": "another's"}))
        logger.warning("ours")


def test_a_warning_beside_a_progress_bar_has_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Console() as console, console.progress("a\x1b[2J.png") as bar:
        bar.total = 4
        bar.update(1)
        logger.warning("look")
    err = capsys.readouterr().err
    assert "\rcudaspeed: WARNING: look\n" in err
    assert "a\\x1b[2J.png:  25%" in err


def test_only_letters_that_steer_are_escaped() -> None:
    assert printable("grün 猫 a\tb\nc\x1b[0m\x9b") == "grün 猫 a\\tb\\nc\\x1b[0m\\x9b"
