"""The process that builds a library of ours: compiled, linked, tried, published. It needs no torch.

It is started by build.py, apart from the caller's process, and outlives that. What it starts are compilers, and a
process in which the library is first loaded: any of them may crash, hang, or leave others behind, and ends in time. How
it ended is noted in the store, so that no other process tries the same.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import TimeoutExpired

from ..storage.artifacts import ArtifactStore
from ..storage.processes import (
    adopt_orphans,
    command_of,
    end_all,
    end_descendants,
    last_words,
    name_of_death,
    start_apart,
)  # fmt: skip
from .trial import went_well

_MOST_BYTES = 1 << 28  # of any file
_MOST_SAID = 1 << 16
_KILLED = -signal.SIGKILL if sys.platform != "win32" else None  # by the system, for want of memory, or by a person


@dataclass(frozen=True)
class Order:
    """What to build. `id` is its name in the store in `folder`; the sources lie where the order does, csrc/<name>.cpp
    as <name>.cpp. `openmp` is the file that has the OpenMP which the library is to use, `threads` how many. After so
    many seconds of `building`, and of `trying`, it is given up."""

    id: str
    folder: str
    name: str
    compile: Sequence[str]
    link: Sequence[str]
    openmp: str
    threads: int
    building: float
    trying: float

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class BuildError(RuntimeError):
    """The library cannot be built, loaded or trusted; the text says why. `scope` is as in an `Entry`; "": it may
    pass."""

    def __init__(self, reason: str, scope: str) -> None:
        super().__init__(reason)
        self.scope = scope


def main(order_file: str) -> None:
    """Do what the file says, and note how it ended; then its folder is deleted."""
    scratch = Path(order_file).parent
    order = Order(**json.loads(Path(order_file).read_text(encoding="utf-8")))
    store, began = ArtifactStore(Path(order.folder)), time.perf_counter()
    try:
        adopt_orphans()
        _set_limits()
        _build(order, scratch)
        _try(order, scratch)
        store.publish(order.id, scratch / "kernels.so", time.perf_counter() - began)
    except BuildError as error:
        if error.scope:
            store.fail(order.id, str(error), error.scope, "")
    finally:
        store.release(order.id)
        shutil.rmtree(scratch, ignore_errors=True)


def _set_limits() -> None:
    """For all that this process starts: no file of any size, and no picture of a crash's memory."""
    if sys.platform != "linux":
        return
    import resource

    for limit, most in ((resource.RLIMIT_FSIZE, _MOST_BYTES), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _build(order: Order, scratch: Path) -> None:
    """The library, kernels.so. Raises `BuildError`."""
    until = time.monotonic() + order.building
    compiler = Path(order.compile[0]).name
    for command in (
        [*order.compile, f"{order.name}.cpp", "-o", "kernels.o"],
        [*order.link, "kernels.o", "-o", "kernels.so"],
    ):
        log = scratch / "compiler.txt"
        code = _run(command, scratch, log, until - time.monotonic())
        if code is None:
            raise BuildError(f"{compiler} took longer than {order.building:.0f} s", "time")
        said = log.read_bytes()[:_MOST_SAID].decode(errors="replace")
        if code == _KILLED or "signal terminated program" in said:
            raise BuildError(f"{compiler} was killed", "")
        if code:
            lines = said.splitlines()
            told = next((line for line in lines if "error" in line), lines[0] if lines else name_of_death(code))
            raise BuildError(f"{compiler} says: {told[:300]}", "environment")
    if not (scratch / "kernels.so").is_file():
        raise BuildError(f"{compiler} made nothing", "environment")


def _try(order: Order, scratch: Path) -> None:
    """Load and call the library where it can do no harm. Raises `BuildError`."""
    verdict, log = scratch / "verdict.txt", scratch / "trial.txt"
    library = str((scratch / "kernels.so").absolute())
    command = command_of("kernels.trial", order.name, library, order.openmp, str(order.threads), str(verdict))
    code = _run(command, scratch, log, order.trying)
    if code is None:
        raise BuildError(f"what was built had no result after {order.trying:.0f} s", "time")
    if code == _KILLED:
        raise BuildError("its first try was killed", "")
    if code < 0:
        raise BuildError(f"what was built dies at its first use ({name_of_death(code)})", "model")
    if code or not went_well(verdict):
        raise BuildError(f"what was built does not work: {last_words(log)}", "model")


def _run(command: Sequence[str], scratch: Path, log: Path, seconds: float) -> int | None:
    """Run it to its end, and end what it leaves behind; its exit code, None where it took longer."""
    process = start_apart(command, scratch, log)
    try:
        return process.wait(max(0.0, seconds))
    except TimeoutExpired:
        return None
    finally:
        end_all(process)
        end_descendants()
