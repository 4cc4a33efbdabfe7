"""Compiles in processes of their own: started, asked after, stopped. One at a time in each process of ours."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from ..storage.artifacts import ArtifactStore
from .request import Request

logger = logging.getLogger("cudaspeed")

# The pack's folder may have any name, so the worker's process gives it one; sys.path stays as it is.
_START = """
import importlib, sys, types
package = types.ModuleType("cudaspeed")
package.__path__ = [sys.argv[1]]
sys.modules["cudaspeed"] = package
importlib.import_module("cudaspeed.compiling.worker").main(sys.argv[2])
"""
_GRACE = 30.0  # seconds that a worker gets beyond its limit to end itself
_LOW_PRIORITY = 10
_KILLED = -9  # by the system, for want of memory, or by a person: no word against the model
_APART = getattr(subprocess, "CREATE_NO_WINDOW", 0) | getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)  # Windows


def scratch_folder(store: ArtifactStore) -> Path:
    """A new folder for one compile, in the store's own, so that its result is moved and not copied."""
    jobs = store.folder / "jobs"
    jobs.mkdir(mode=0o700, exist_ok=True)  # the store itself is there once something in it is claimed
    return Path(tempfile.mkdtemp(dir=jobs))


class CompileJob:
    """One running compile. Raises `OSError` when its process cannot be started or its files not be written.

    The worker outlives this process, at low priority and within its own time limit, so that its result is there the
    next time. It publishes into `store` by itself: all that is asked here is whether it is still at it.
    """

    def __init__(self, store: ArtifactStore, request: Request, module: nn.Module, scratch: Path) -> None:
        self.id, self.shapes, self._published = request.id, request.shapes, False
        self._store, self._scratch, self._request = store, scratch, request
        self._until = time.monotonic() + request.limit + _GRACE
        _save_weights(module, request.weights)
        request_file = scratch / "request.json"
        request_file.write_text(request.to_json(), encoding="utf-8")
        command = [sys.executable, "-c", _START, str(Path(__file__).absolute().parent.parent), str(request_file)]
        self._log = scratch / "log.txt"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=scratch, env=_environment(scratch), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, creationflags=_APART,  # Ctrl-C is for us, and no console window is for anyone
            )  # fmt: skip
        self._store.adopt(request.id, self._process.pid)
        with contextlib.suppress(psutil.Error):  # it is over already, or may not be slowed
            lower = psutil.BELOW_NORMAL_PRIORITY_CLASS if sys.platform == "win32" else _LOW_PRIORITY
            psutil.Process(self._process.pid).nice(lower)
        with contextlib.suppress(OSError):  # on Linux a session is scheduled as one, with a niceness of its own
            Path(f"/proc/{self._process.pid}/autogroup").write_text(str(_LOW_PRIORITY))

    @property
    def published(self) -> bool:
        """Whether its result is there, or was when this was last asked: it is only trying to improve it."""
        entry = self._store.get(self.id)
        self._published = self._published or (entry is not None and entry.state == "ready")
        return self._published

    @property
    def without_result(self) -> bool:
        """Whether it ended and the store says neither that it is ready nor that it failed: memory or disk ran out, or
        someone killed it."""
        entry = self._store.get(self.id)
        return not self.published and (entry is None or entry.state in ("seen", "compiling"))

    def running(self) -> bool:
        """Whether its process is still at it. When it no longer is, the store says what became of it."""
        code = self._process.poll()
        if code is None and time.monotonic() < self._until:
            return True
        try:
            self._settle(code)
        except OSError as error:
            logger.debug("what became of a compile cannot be noted: %s", error)
        return False

    def stop(self) -> None:
        """End it now, and the compilers it started."""
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self._process.pid).children(recursive=True):
                child.kill()
        self._process.kill()
        self._process.wait()
        self._store.release(self.id)
        self._clean_up()

    def _settle(self, code: int | None) -> None:
        """See to it that the store says how it ended, where the worker could not."""
        if code is None:
            self.stop()
            if self.without_result:
                self._fail(f"compiling took longer than {self._request.limit:.0f} s and was stopped")
        elif code and code != _KILLED and self.without_result:
            self._fail(f"the compiling process died ({_death(code)}): {self._last_words()}")
        self._clean_up()

    def _fail(self, reason: str) -> None:
        self._store.fail(self.id, reason, "model", self._request.environment)

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines() if self._log.is_file() else []
        return lines[-1][:200] if lines else "it said nothing"

    def _clean_up(self) -> None:
        """The log of a failed compile stays beside the index, for whoever reports it; nothing else does."""
        entry = self._store.get(self.id)
        if entry and entry.state == "failed" and self._log.is_file():
            shutil.copyfile(self._log, self._store.folder / f"{self.id}.log")
        shutil.rmtree(self._scratch, ignore_errors=True)


def _save_weights(module: nn.Module, path: str) -> None:
    """Raises `OSError` where they cannot be written; safetensors has an error of its own for that."""
    # copies: a state dict's tensors may share memory or lie in another layout, which safetensors refuses
    weights = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in module.state_dict().items()
    }
    try:
        save_file(weights, path)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from error


def _environment(scratch: Path) -> dict[str, str]:
    """The worker's variables: ours, with all that compilers leave behind in `scratch`, and CUDA's headers where pip
    put them."""
    variables = {
        **os.environ,
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        "TRITON_CACHE_DIR": str(scratch / "triton"),
        "TMPDIR": str(scratch),
        "TORCHINDUCTOR_FX_GRAPH_CACHE": "0",  # it would unpickle what it finds
        "TORCHINDUCTOR_COMPILE_THREADS": "1",  # in the background, beside a working computer
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    told = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    # os.path's, which raises nothing where this user may not look
    toolkit = None if told or os.path.exists("/usr/local/cuda/include/cuda.h") else _toolkit_of_pip()  # noqa: PTH110
    return {**variables, "CUDA_HOME": str(toolkit)} if toolkit else variables


def _toolkit_of_pip() -> Path | None:
    """The folder with CUDA's headers among the packages that torch's wheels bring with them."""
    found = importlib.util.find_spec("nvidia")
    for root in (found.submodule_search_locations or []) if found else []:
        for header in sorted(Path(root).glob("*/include/cuda.h")):
            return header.parent.parent
    return None


def _death(code: int) -> str:
    if code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            pass
    return f"exit code {code}"
