"""Our own kernels for CPUs: C++ that comes with the pack, built once on a machine, in a second, by its compiler.

What was built is with the compiled models, in the store (storage/artifacts.py): it is loaded only while it is byte for
byte what was built here. Where there is no compiler, or anything else is amiss, there are no such kernels, and nothing
else changes. Linux only: on macOS torch has the GPU, on Windows no compiler that takes this code.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ..api.errors import first_line
from ..storage.artifacts import ArtifactStore
from ..storage.fingerprint import describe_environment

logger = logging.getLogger("cudaspeed")

_SOURCES = Path(__file__).parent / "csrc"
# Compiled and linked apart: linked without OpenMP, the library takes the one that torch has loaded, and so its threads.
_COMPILE = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-fopenmp", "-c")
_LINK = ("-shared",)
_SECONDS = 120.0  # it takes one
_PATIENCE, _ASKED_AGAIN = 10.0, 0.1  # where another process builds
_SURROUNDINGS = ("hardware", "system", "compiler")

_loaded: dict[str, ctypes.CDLL | None] = {}  # a library is loaded once into a process, and stays


class BuildError(RuntimeError):
    """The library cannot be built, loaded or trusted; the text says why."""


def load_library(name: str, folder: Path, check: Callable[[ctypes.CDLL], str | None]) -> ctypes.CDLL | None:
    """The library of csrc/<name>.cpp, from the store in `folder` or built into it; None where there cannot be one.

    `check` calls it, and says what is wrong with the results, if anything is. Asked again, the answer is the same for
    as long as this process lives.
    """
    if name not in _loaded:
        try:
            _loaded[name] = _load(name, ArtifactStore(folder), check)
        except (BuildError, OSError, subprocess.SubprocessError) as error:
            logger.info("no %s kernels for this CPU: %s", name, first_line(error))
            _loaded[name] = None
    return _loaded[name]


def code_of(name: str) -> str:
    """A digest of the source of csrc/<name>.cpp, 64 hexadecimal digits, where its library is loaded; else ""."""
    return _code(name) if _loaded.get(name) else ""


@functools.cache  # asked at every run
def _code(name: str) -> str:
    files = (_SOURCES / f"{name}.cpp", *sorted(_SOURCES.glob("*.h")))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _load(name: str, store: ArtifactStore, check: Callable[[ctypes.CDLL], str | None]) -> ctypes.CDLL:
    if sys.platform != "linux":
        raise BuildError(f"they are not built on {sys.platform}")
    source = _SOURCES / f"{name}.cpp"
    around = describe_environment(torch.device("cpu"))
    what = {"model": f"{name} kernels", "flags": " ".join(_COMPILE), **{key: around[key] for key in _SURROUNDINGS}}
    what["code"] = _code(name)
    entry_id = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:24]
    path = store.path_of(entry_id)
    if path is None:
        known = store.get(entry_id)
        if known and known.state == "failed":  # under another `what` it has another id
            raise BuildError(known.reason)
        path = _build(source, store, entry_id) if store.claim(entry_id, what) else _await(store, entry_id)
    try:
        library = ctypes.CDLL(str(path))
        flaw = check(library)
        if not flaw:
            return library
        reason = f"their result is wrong: {flaw}"
    except (OSError, AttributeError) as error:  # a symbol is missing, of OpenMP's most likely
        reason = first_line(error)
    store.fail(entry_id, reason, "model", "")
    raise BuildError(reason)


def _await(store: ArtifactStore, entry_id: str) -> Path:
    """What another process is building; it takes it a second."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        time.sleep(_ASKED_AGAIN)
        path = store.path_of(entry_id)
        if path:
            return path
    raise BuildError("another process is building them")


def _build(source: Path, store: ArtifactStore, entry_id: str) -> Path:
    """Build and publish; a failure is noted, so that it is not tried again until compiler or source change."""
    began = time.perf_counter()
    compiler = shutil.which(os.environ.get("CXX") or "g++") or shutil.which("c++")
    try:
        if compiler is None:
            raise BuildError("no C++ compiler was found; install g++")
        jobs = store.folder / "jobs"
        jobs.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=jobs) as scratch:
            compiled, library = Path(scratch, "kernels.o"), Path(scratch, "kernels.so")
            _call(compiler, *_COMPILE, str(source), "-o", str(compiled))
            _call(compiler, *_LINK, str(compiled), "-o", str(library))
            store.publish(entry_id, library, time.perf_counter() - began)
    except BuildError as error:
        store.fail(entry_id, str(error), "environment", "")
        raise
    except BaseException:  # an interrupt, no room on the disk: it may be tried again
        store.release(entry_id)
        raise
    path = store.path_of(entry_id)
    if path is None:
        raise BuildError("what was built is gone")
    return path


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["nothing"]
        raise BuildError(f"{Path(command[0]).name} says: {said[0][:300]}")
