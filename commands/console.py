"""What a command says: results on standard output, the log and progress on standard error, whatever becomes of these.

A stream may be closed, a pipe that nobody reads any more, a file on a full disk, or in an encoding that lacks a letter:
none of it costs any work. What standard error cannot take is said on standard output; that this could not be written
is said on standard error, and by the exit code.
"""

from __future__ import annotations

import codecs
import json
import logging
import os
import re
import select
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import (
    AbstractContextManager,
    ExitStack,
    contextmanager,
    nullcontext,
    redirect_stderr,
    redirect_stdout,
    suppress,
)
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from .exit_codes import FAILED

if TYPE_CHECKING:
    from tqdm import tqdm

logger = logging.getLogger("cudaspeed")

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # in a file's name they would steer the terminal, or end the line


def line_of_undone(record: Mapping[str, Any]) -> str | None:
    """The line on an input that failed or was skipped, by its record; None where it was done."""
    if "error" in record:
        return str(record["error"])
    if "skipped" in record:
        return f"{Path(record['input']).name}: skipped, {record['output']} exists"
    return None


class Console:
    """The streams of one command, from `with` on; `json` says that standard output is one JSON object a line."""

    def __init__(self) -> None:
        self.json = False
        self._out, self._err = _Stream(sys.stdout), _Stream(sys.stderr)
        self._beside_bars: Callable[[], AbstractContextManager[None]] = nullcontext
        self._cleanup = ExitStack()

    def __enter__(self) -> Console:
        self._cleanup.enter_context(_descriptors_taken())
        # What others print, such as Python's warnings, must not fail either.
        self._cleanup.enter_context(redirect_stdout(cast(TextIO, self._out)))
        self._cleanup.enter_context(redirect_stderr(cast(TextIO, self._err)))
        self._cleanup.enter_context(_logging_to(self))
        return self

    def __exit__(self, *error: object) -> None:
        self._cleanup.close()

    def set_up(self, json: bool, verbose: bool) -> None:
        """As the command's arguments have it."""
        self.json = json
        logger.setLevel(logging.DEBUG if verbose else logging.WARNING)

    def tell(self, record: Mapping[str, Any], line: str) -> None:
        """A result: the record as JSON, or the line."""
        self._out.write(f"{json.dumps(record) if self.json else printable(line)}\n")

    def complain(self, text: str) -> None:
        """Something on standard error; where that fails on standard output, unless there is only JSON, whose records
        tell of errors and warnings as well."""
        with self._beside_bars():
            self._err.write(f"{text}\n")
        if self._err.failure and not self.json:
            self._out.write(f"{text}\n")

    def fail(self, reason: str) -> None:
        """Why the command ends."""
        self.complain(f"cudaspeed: error: {printable(reason)}")
        if self._err.failure and self.json:
            self._out.write(f"{json.dumps({'error': reason})}\n")

    def progress(self, name: str) -> tqdm[Any]:
        """A progress bar, where there is a terminal to show it."""
        from tqdm import tqdm  # here because help needs no bar, and is not to wait for one

        self._beside_bars = partial(tqdm.external_write_mode, file=self._err)
        shown = self._err.isatty() and not self.json
        return tqdm(
            desc=printable(name),
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}",
            leave=False,
            disable=not shown,
            file=cast(TextIO, self._err),
        )

    def settle(self, code: int) -> int:
        """`code`, or, where what was told did not get out, the one that says so."""
        if not self._out.failure:
            return code
        self._err.write(f"cudaspeed: error: standard output could not be written: {self._out.failure}\n")
        return code or FAILED


def printable(text: str) -> str:
    """`text` on one line, with nothing in it that steers a terminal."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class _Stream:
    """A standard stream that can be written to whatever becomes of it; `failure` is why it no longer takes anything.

    Past Python's buffer, in which what could not be written would lie until the end of the process, and change the exit
    code then.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.failure = ""
        self.encoding = getattr(stream, "encoding", None) or "utf-8"
        self._stream = stream
        self._encode = codecs.getincrementalencoder(self.encoding)("backslashreplace").encode

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if not self.failure:
            try:
                self._write(text)
            except (OSError, ValueError) as error:  # ValueError: it was closed since
                self.failure = getattr(error, "strerror", None) or str(error)
        return len(text)

    def flush(self) -> None:
        """Nothing waits."""

    def isatty(self) -> bool:
        try:
            return self._stream is not None and not self.failure and self._stream.isatty()
        except ValueError:
            return False

    def _write(self, text: str) -> None:
        if self._stream is None:  # closed before Python began
            raise OSError("it is closed")
        self._stream.flush()
        raw = getattr(getattr(self._stream, "buffer", None), "raw", None)
        if raw is None:  # somebody's own, a test's or a notebook's
            self._stream.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding))
            self._stream.flush()
            return
        data = self._encode(text.replace("\n", os.linesep))
        while data:
            written = raw.write(data)
            if written is None:  # the reader is slow, and whoever opened the pipe has it not wait
                select.select([], [raw], [])
            else:
                data = data[written:]


class _LogHandler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self.setFormatter(_OneLine("cudaspeed: %(levelname)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception:  # somebody's message does not fit its arguments
            self.handleError(record)
        else:
            self._console.complain(text)


class _OneLine(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """A traceback is added later, in lines of its own."""
        return printable(super().formatMessage(record))


@contextmanager
def _logging_to(console: Console) -> Iterator[None]:
    """Show our log for the length of one command; a second one in one process must not show it twice."""
    handler, silent = _LogHandler(console), logging.NullHandler()
    decoder_logs = [logging.getLogger("tifffile"), logging.getLogger("imagecodecs")]
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    for decoder_log in decoder_logs:
        decoder_log.addHandler(silent)  # of a damaged file they tell much that our one error says better
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        for decoder_log in decoder_logs:
            decoder_log.removeHandler(silent)


@contextmanager
def _descriptors_taken() -> Iterator[None]:
    """Those of the standard streams that are closed lead nowhere meanwhile: else the next file that is opened gets one
    of these numbers, and what a library in C says on standard error is written into it."""
    taken: list[int] = []
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                taken.append(os.open(os.devnull, os.O_RDWR))  # the lowest that is free, so this one
    try:
        yield
    finally:
        for number in taken:
            os.close(number)
