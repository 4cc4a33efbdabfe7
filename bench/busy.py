"""A machine that has other things to do: `python -m bench.busy [--count N] COMMAND...` runs a command on one.

So many processes (eight, if not said otherwise) multiply matrices, which fills the cores, and copy more than any cache
holds, which fills the way to memory. They end with what started them, however that ends.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

COUNT = 8
_ROOT = Path(__file__).absolute().parent.parent
_SIDE = 384  # of the matrices: a product takes a few milliseconds and stays in the second-level cache
_BYTES = 32 << 20  # that are copied
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_PAUSE, _RESUME, _AT_WORK = b"p", b"r", b"!"


class Busy:
    """`count` processes at work."""

    def __init__(self, count: int) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            for _ in range(count):
                self._processes.append(_start())
            for process in self._processes:
                assert process.stdout is not None
                if process.stdout.read(len(_AT_WORK)) != _AT_WORK:
                    raise RuntimeError(f"a busy process ended with {process.wait()} before it was at work")
        except BaseException:
            self.end()
            raise

    @property
    def ids(self) -> tuple[int, ...]:
        """The processes', as the system numbers them."""
        return tuple(process.pid for process in self._processes)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the machine alone meanwhile: for what is prepared, and not to be measured beside them."""
        self._tell(_PAUSE)
        try:
            yield
        finally:
            self._tell(_RESUME)

    def end(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            with suppress(BrokenPipeError), process:  # waits, and closes the pipes
                pass

    def _tell(self, what: bytes) -> None:
        for process in self._processes:
            assert process.stdin is not None
            os.write(process.stdin.fileno(), what)


@contextmanager
def busy(count: int = COUNT) -> Iterator[Busy]:
    """`count` processes that keep the machine busy from the beginning to the end of the block."""
    processes = Busy(count)
    try:
        yield processes
    finally:
        processes.end()


def _start() -> subprocess.Popen[bytes]:
    """Nobody else has the other end of its standard input: the system closes it when this process ends, killed or not.

    Started by its file: neither torch nor the package is imported.
    """
    command = [sys.executable, str(Path(__file__).absolute()), "--work"]
    return subprocess.Popen(
        command, cwd=_ROOT, env={**os.environ, **_ONE_THREAD}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def _work() -> None:
    """Compute, but while it is paused, until the standard input ends."""
    going = threading.Event()
    going.set()
    threading.Thread(target=_listen, args=(going,), daemon=True).start()
    matrix = np.ones((_SIDE, _SIDE), np.float32)
    here, there = np.ones(_BYTES, np.uint8), np.zeros(_BYTES, np.uint8)
    os.write(1, _AT_WORK)
    while True:
        going.wait()
        matrix @ matrix
        np.copyto(here, there)


def _listen(going: threading.Event) -> None:
    with suppress(OSError):
        while told := os.read(0, 1):
            (going.clear if told == _PAUSE else going.set)()
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    if args.work:
        _work()
    if not args.command:
        parser.error("say what to run beside them, such as: make test")
    with busy(args.count):
        code = subprocess.run(args.command).returncode
    sys.exit(code)


if __name__ == "__main__":
    main()
