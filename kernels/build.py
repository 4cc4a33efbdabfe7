"""Our own kernels for CPUs: C++ that comes with the pack, built once on a machine, in some seconds, by its compiler.

What was built is with the compiled models, in the store (storage/artifacts.py): it is loaded only while it is byte for
byte what was built here, and was tried in a process of its own (build_worker.py). Where there is no compiler, or
anything else is amiss, there are no such kernels, and nothing else changes. Linux only: on macOS torch has the GPU, on
Windows no compiler that takes this code.
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
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from ..api.errors import first_line
from ..storage.artifacts import ArtifactStore
from ..storage.fingerprint import describe_environment
from ..storage.index import Usage
from ..storage.private_copy import PrivateCopy
from ..storage.processes import command_of, start_apart
from ..storage.scratch import hand_over, scratch_folder
from .build_worker import BuildError, Order

logger = logging.getLogger("cudaspeed")

_SOURCES = Path(__file__).parent / "csrc"
# Compiled and linked apart: linked without OpenMP, the library takes the one that torch has loaded, and so its threads.
_COMPILE = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-fopenmp", "-c")
_LINK = ("-shared",)
_ASKED_AGAIN = 0.02  # seconds
_BUILDING, _TRYING = 60.0, 10.0  # seconds after which it is given up; they take one, and a tenth
_ANOTHER_DAY = 24 * 3600.0  # what took too long, on a busy machine, may be tried again
_SURROUNDINGS = ("hardware", "system", "compiler", "torch")

OURS = ("winograd", "linear", "attention", "transformer_block")
"""The libraries that models are computed with."""

_loaded: dict[str, ctypes.CDLL | None] = {}  # a library is loaded once into a process, and stays
_unfinished: set[str] = set()  # asked for, and not there yet
_lock = threading.Lock()
_copies: list[PrivateCopy] = []  # open: a path that another file has later would be taken for the library
_builders: list[subprocess.Popen[bytes]] = []  # ours: those that have ended must be asked after


class UnfinishedError(BuildError):
    """The library is being built: it may be there later."""


def load_library(
    name: str, folder: Path, check: Callable[[ctypes.CDLL], str | None], patience: float = 0.0
) -> ctypes.CDLL | None:
    """The library of csrc/<name>.cpp, from the store in `folder`; None where there cannot be one, or where it is being
    built, which begins now if need be, and is not there after `patience` seconds: then it may be there when it is asked
    for again.

    `check` calls it, and says what is wrong with the results, if anything is; it is asked once for what was built, not
    in every process. Any other answer stays the same for as long as this process lives.
    """
    with _lock:
        if name not in _loaded:
            try:
                _loaded[name] = _load(name, ArtifactStore(folder), check, patience)
            except UnfinishedError as error:
                if name not in _unfinished:
                    logger.info("no %s kernels yet: %s", name, error)
                _unfinished.add(name)
                return None
            except (BuildError, OSError) as error:
                logger.info("no %s kernels for this CPU: %s", name, first_line(error))
                _loaded[name] = None
            _unfinished.discard(name)
        return _loaded[name]


def loaded_library(name: str) -> ctypes.CDLL:
    """What `load_library` has loaded. Raises `RuntimeError` where there is nothing, for which nothing is built."""
    library = _loaded.get(name)
    if library is None:
        raise RuntimeError(f"the {name} kernels are not loaded; prepare them first")
    return library


def is_pending(name: str) -> bool:
    """Whether the library was asked for and is still being built."""
    return name in _unfinished


def code_of(name: str) -> str:
    """A digest of the source of csrc/<name>.cpp, 64 hexadecimal digits, where its library is loaded; else ""."""
    return _code(name) if _loaded.get(name) else ""


@functools.cache  # asked at every run
def _code(name: str) -> str:
    return hashlib.sha256(b"".join(_sources(name).values())).hexdigest()


@functools.cache  # what is compiled is what its digest was made of, whatever becomes of the files
def _sources(name: str) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (_SOURCES / f"{name}.cpp", *sorted(_SOURCES.glob("*.h")))}


def _load(name: str, store: ArtifactStore, check: Callable[[ctypes.CDLL], str | None], patience: float) -> ctypes.CDLL:
    if sys.platform != "linux":
        raise BuildError(f"they are not built on {sys.platform}", "environment")
    around = describe_environment(torch.device("cpu"))
    what = {"model": f"{name} kernels", "flags": " ".join(_COMPILE), **{key: around[key] for key in _SURROUNDINGS}}
    what |= {"code": _code(name), "tried": "apart"}  # earlier ones were not
    entry_id = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:24]
    copy = store.copy_of(entry_id) or _built(name, store, entry_id, what, patience)
    _copies.append(copy)
    try:
        library = ctypes.CDLL(str(copy.path))
        known = store.get(entry_id)
        if known and known.verified and known.sha256 == copy.sha256:  # with this torch, on this hardware
            return library
        flaw = check(library)
        if not flaw:
            store.note(entry_id, what, Usage(verified=True, sha256=copy.sha256))
            return library
        reason = f"their result is wrong: {flaw}"
    except (OSError, AttributeError) as error:  # a symbol is missing, of OpenMP's most likely
        reason = first_line(error)
    store.fail(entry_id, reason, "model", "")
    raise BuildError(reason, "model")


def _built(name: str, store: ArtifactStore, entry_id: str, what: dict[str, str], patience: float) -> PrivateCopy:
    """What this process or another builds now, if it is there within `patience` seconds."""
    known = store.get(entry_id)
    if known and known.state == "failed" and not (known.scope == "time" and time.time() - known.used > _ANOTHER_DAY):
        raise BuildError(known.reason, known.scope)  # under another `what` it has another id
    if store.claim(entry_id, what):
        try:
            _start(name, store, entry_id)
        except BuildError as error:
            store.fail(entry_id, str(error), error.scope, "")
            raise
        except BaseException:  # an interrupt, no room on the disk: it may be tried again
            store.release(entry_id)
            raise
    return _await(store, entry_id, time.monotonic() + patience)


def _start(name: str, store: ArtifactStore, entry_id: str) -> None:
    """Start a process that builds and tries the library, publishes it, or notes why it cannot."""
    compiler = shutil.which(os.environ.get("CXX") or "g++") or shutil.which("c++")
    if compiler is None:
        raise BuildError("no C++ compiler was found; install g++", "environment")
    compiler = str(Path(compiler).absolute())
    scratch = scratch_folder(store.folder)
    try:
        for file, content in _sources(name).items():
            (scratch / file).write_bytes(content)
        commands = (compiler, *_COMPILE), (compiler, *_LINK)
        openmp, threads = _openmp(), torch.get_num_threads()
        order = Order(entry_id, str(store.folder), name, *commands, openmp, threads, _BUILDING, _TRYING)
        (scratch / "order.json").write_text(order.to_json(), encoding="utf-8")
        environment = {**os.environ, "TMPDIR": str(scratch)}  # what compilers put down in between is code, too
        command = command_of("kernels.build_worker", str(scratch / "order.json"))
        builder = start_apart(command, scratch, scratch / "log.txt", environment)
    except BaseException:  # an interrupt, too: nobody else knows the folder
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    _builders.append(builder)
    store.adopt(entry_id, builder.pid)
    with suppress(OSError):  # it has ended already
        hand_over(scratch, builder.pid)


def _await(store: ArtifactStore, entry_id: str, until: float) -> PrivateCopy:
    """What is being built, by whatever process, once it is there. Nobody waits longer than `until`."""
    while True:
        for builder in _builders:
            builder.poll()
        entry = store.get(entry_id)
        if entry is None or entry.state == "seen":
            raise BuildError("the process that built them was ended", "")
        if entry.state == "failed":
            raise BuildError(entry.reason, entry.scope)
        if entry.state == "ready":
            copy = store.copy_of(entry_id)
            if copy is None:
                raise BuildError("what was built is gone", "")
            return copy
        if time.monotonic() >= until:
            raise UnfinishedError("they are being built in the background", "")
        time.sleep(_ASKED_AGAIN)


class _Symbol(ctypes.Structure):
    """`Dl_info` of dladdr(3)."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def _openmp() -> str:
    """The file from which this process has its OpenMP, which came with torch; "" where that cannot be seen."""
    found = _Symbol()
    try:
        process = ctypes.CDLL(None)
        process.dladdr(ctypes.cast(process.GOMP_parallel, ctypes.c_void_p), ctypes.byref(found))
    except AttributeError:
        return ""
    return os.fsdecode(found.file or b"")
