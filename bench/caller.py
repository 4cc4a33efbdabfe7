"""The other side of `bench.contenders`: a process that upscales one picture whenever it is asked to, and tells how long
that took. Its first call is the first thing that this process computes.

It says one line once it has imported and read what it needs, and answers each line on its standard input by one, both
JSON. Beside `cudaspeed` itself it uses only what checkouts of other days have, too.
"""

from __future__ import annotations

import gc
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cudaspeed import upscale_engine
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.models.loader import load_model
from cudaspeed.pipeline.session_cache import SessionCache

from .harness import synchronize
from .photograph import photograph

try:
    _host: Any = import_module("cudaspeed.host.standalone")
except ModuleNotFoundError:  # a checkout from before that room
    _host = import_module("cudaspeed.host")

Record = dict[str, Any]

_KERNELS = "winograd", "window_attention", "linear", "transformer_block"  # as far as a checkout has them
_BUILDING = 30.0  # seconds after which our kernels are taken for such as cannot be built here
_ASKED_AGAIN = 0.2


class Caller:
    """One model and one picture [1, H, W, 3] on one device."""

    def __init__(self, kind: str, file: Path, image: Tensor, device: str) -> None:
        self._call: Callable[[Record], tuple[Tensor, Record]] = getattr(self, f"_{kind}")
        self._file, self._image, self._context = file, image, _host.StandaloneContext(device)
        self._model = load_model(file)
        self._sessions: dict[str, SessionCache] = {}
        self.scale = self._model.scale
        if kind == "plain":
            self._model.to(self._context.device)

    def call(self, options: Record) -> Record:
        """One call: "seconds", from the picture in main memory to the result there; the result's "digest"; and of ours
        what the report says."""
        synchronize(self._context.device)
        began = time.perf_counter()
        result, told = self._call(options)
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "digest": hashlib.sha256(result.numpy().tobytes()).hexdigest(), **told}

    def settle(self) -> Record:
        """Let the engine finish what it learns between two calls, if it does such a thing: "seconds"."""
        began = time.perf_counter()
        getattr(upscale_engine, "finish_learning", lambda: None)()
        return {"seconds": time.perf_counter() - began}

    def listen(self) -> Record:
        """The longest "silence" of a run, and how late an "interrupt" of another is noticed, seconds."""
        from .silence import silence

        options, device = UpscaleOptions(compile=False), str(self._context.device)
        told = silence(lambda: load_model(self._file), self._image, options, device)
        return {"silence": told.longest, "interrupt": None if math.isnan(told.noticed) else told.noticed}

    def _plain(self, options: Record) -> tuple[Tensor, Record]:
        """What spandrel's own documentation does."""
        with torch.inference_mode():
            picture = self._image.permute(0, 3, 1, 2).contiguous().to(self._context.device)
            return self._model(picture).cpu(), {}

    def _ours(self, options: Record) -> tuple[Tensor, Record]:
        """Each set of options but the default has a session of its own, so that none gains by what another found."""
        asked = self._image, self._model, UpscaleOptions(**options), self._context
        own = [self._sessions.setdefault(json.dumps(options, sort_keys=True), SessionCache())] if options else []
        result = upscale_engine.upscale(*asked, *own)
        report = result.report
        how = f"{report.precision}, {'compiled' if report.compiled else report.kernels}"
        return result.image.contiguous(), {"how": how, "profile": getattr(report, "profile", "")}


def build_kernels() -> Record:
    """Build what there is for CPUs, as some earlier session on this machine would have: "built" tells whether it is."""
    until, folder = time.monotonic() + _BUILDING, _host.compiled_folder()
    there = [name for name in _KERNELS if find_spec(f"cudaspeed.kernels.{name}")]
    prepares = [import_module(f"cudaspeed.kernels.{name}").prepare for name in there]
    while not (built := all(prepare(folder) for prepare in prepares)) and time.monotonic() < until:
        time.sleep(_ASKED_AGAIN)
    return {"built": built}


def serve() -> None:
    """Until the standard input ends. Nothing but answers goes to the standard output."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    order = json.loads(sys.argv[1])

    def answer(record: Record) -> None:
        answers.write(json.dumps(record) + "\n")
        answers.flush()

    if order["kind"] == "kernels":
        answer(build_kernels())
        return
    caller = Caller(order["kind"], Path(order["model"]), photograph(*order["size"]), order["device"])
    gc.collect()  # which imports owe: 0.15 s, in whichever call makes one object too many
    checkout = str(Path(upscale_engine.__file__).parent.resolve())
    answer({"checkout": checkout, "threads": torch.get_num_threads(), "scale": caller.scale})
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        answer(getattr(caller, name)(*arguments))


if __name__ == "__main__":
    serve()
