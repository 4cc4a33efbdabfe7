"""The command line without the seconds that importing torch takes: a process that has imported it forks for each call.

The child gets its standard streams as a process gets them from a shell, makes Python's of them as Python does, and ends
with the code that Python would end with, which is another one where a buffer cannot be written any more.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Ended:
    """How a call ended. What was said on a stream is there if that was not pointed elsewhere."""

    code: int
    out: bytes
    err: bytes


@dataclass
class Preloaded:
    """Calls of `cudaspeed`. A stream's place is "closed", "unread" (a pipe that nobody reads) or a file's path."""

    environment: Mapping[str, str] = field(default_factory=dict)

    def __enter__(self) -> Preloaded:
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **self.environment},
        )  # fmt: skip
        return self

    def __exit__(self, *error: object) -> None:
        assert self._server.stdin
        self._server.stdin.close()
        self._server.wait()

    def call(
        self,
        arguments: Sequence[str],
        *,
        places: Mapping[str, str] | None = None,
        variables: Mapping[str, str | None] | None = None,
        encoding: str = "utf-8",
        before: str = "",
    ) -> Ended:
        """Call it with `arguments` and wait. `variables` change the environment (None takes one out); `encoding` is
        that of the streams, as in PYTHONIOENCODING; `before` is what Python is to do first."""
        assert self._server.stdin
        assert self._server.stdout
        with tempfile.TemporaryDirectory() as folder:
            said = {name: str(Path(folder, name)) for name in ("stdout", "stderr")}
            request = {
                "arguments": [*arguments],
                "places": {"stdin": os.devnull, **said, **(places or {})},
                "variables": dict(variables or {}),
                "encoding": encoding,
                "before": before,
            }
            print(json.dumps(request), file=self._server.stdin, flush=True)
            code = int(self._server.stdout.readline())
            out, err = (Path(path).read_bytes() if Path(path).exists() else b"" for path in said.values())
        return Ended(code, out, err)


def _point(number: int, place: str) -> None:
    if place == "closed":
        os.close(number)
        return
    if place == "unread":
        read, target = os.pipe()
        os.close(read)
    else:
        target = os.open(place, os.O_RDWR | os.O_CREAT, 0o600)
    os.dup2(target, number)
    os.close(target)


def _stream(number: int, encoding: str) -> Any:
    """As Python makes it at its beginning."""
    try:
        os.fstat(number)
    except OSError:
        return None
    name, _, errors = encoding.partition(":")
    errors = "backslashreplace" if number == 2 else errors or "strict"
    return io.TextIOWrapper(
        open(number, "rb" if number == 0 else "wb", closefd=False),
        encoding=name, errors=errors, line_buffering=number == 2,
    )  # fmt: skip


def _main(main: Callable[[list[str]], int], arguments: list[str]) -> int:
    """The exit code; 120 is Python's own for a buffer that cannot be written at the end."""
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            code = 120
    return code


def _serve() -> None:
    from cudaspeed import cli
    from cudaspeed.commands import upscale  # noqa: F401  # with torch and spandrel, which the command line imports later

    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):  # ignored, where the tests run in the background
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            for name, text in request["variables"].items():
                os.environ.pop(name, None)
                if text is not None:
                    os.environ[name] = text
            for number, name in enumerate(("stdin", "stdout", "stderr")):
                _point(number, request["places"][name])
                setattr(sys, name, _stream(number, request["encoding"]))
                setattr(sys, f"__{name}__", getattr(sys, name))
            exec(request["before"], {})  # the test's own
            os._exit(_main(cli.main, request["arguments"]))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
