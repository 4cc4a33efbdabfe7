"""Compiles in processes of their own: started, asked after, stopped. One at a time in each process of ours."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import time
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from ..storage.artifacts import ArtifactStore
from ..storage.processes import command_of, end_all, start_apart
from ..storage.scratch import hand_over
from .request import Request
from .watch import LOG

_GRACE = 30.0  # seconds beyond its limit in which it ends by itself
_NICENESS = 10


class CompileJob:
    """One running compile. Raises `OSError` when its process cannot be started or its files not be written.

    It outlives this process, at low priority and within its own time limit (watch.py), so that its result is there the
    next time. It publishes into `store` by itself, and notes there how it failed: all that is asked here is whether it
    is still at it.
    """

    def __init__(self, store: ArtifactStore, request: Request, module: nn.Module, scratch: Path) -> None:
        self.id, self.shapes, self._published = request.id, request.shapes, False
        self._store, self._scratch = store, scratch
        self._until = time.monotonic() + request.limit + _GRACE
        _save_weights(module, request.weights)
        request_file = scratch / "request.json"
        request_file.write_text(request.to_json(), encoding="utf-8")
        command = command_of("compiling.watch", str(request_file), str(_NICENESS))
        self._process = start_apart(command, scratch, scratch / LOG, _environment(scratch))
        self._store.adopt(request.id, self._process.pid)
        with contextlib.suppress(OSError):  # it is over already
            hand_over(scratch, self._process.pid)

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
        if self._process.poll() is None and time.monotonic() < self._until:
            return True
        self.stop()
        return False

    def stop(self) -> None:
        """End it now, and the compilers it started."""
        end_all(self._process)
        self._store.release(self.id)
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
