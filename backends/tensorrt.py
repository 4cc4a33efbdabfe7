"""TensorRT (https://docs.nvidia.com/deeplearning/tensorrt) and TensorRT for RTX as engines, by their own Python face.

Not through torch-tensorrt: that wants the one torch it was built with, loads by torch's pickles, and breaks a model up
at what it does not know, where we would rather be told. No engine ever ran: no machine of ours has a card
(docs/backends.md tells what was tried).
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..api.model_info import Forward
from ..storage.fingerprint import card_of
from ..storage.ownership import NotRegularError, read_own
from .errors import CompileError
from .interface import Work
from .packages import TENSORRT, TENSORRT_RTX, Package
from .tensorrt_file import EngineFile
from .tensorrt_forward import TensorRtForward, new_log
from .tensorrt_profiles import Profile, plan
from .typed_onnx import INPUT, largest_tensor, write_onnx

_OLDEST = (10, 1)  # the first TensorRT that takes an engine's working memory with its size
_MOST_TIMINGS = 1 << 28  # bytes; what a model's kernels took is some hundred kilobytes


@dataclass(frozen=True)
class TensorRt:
    """TensorRT, or, `for_rtx`, the smaller library for GeForce and RTX cards, which leaves the choice of kernels to
    when it runs and builds in seconds."""

    for_rtx: bool = False

    @property
    def package(self) -> Package:
        """What is installed for it."""
        return TENSORRT_RTX if self.for_rtx else TENSORRT

    @property
    def name(self) -> str:
        return self.package.engine

    def version(self) -> str:
        """Of what is installed, "" where nothing is."""
        return self.package.version()

    def lacks(self, device: torch.device) -> str:
        """Why it cannot be used where torch computes on `device`, or ""."""
        package = self.package
        if device.type != "cuda" or torch.version.hip:
            kind = "ROCm" if device.type == "cuda" else device.type
            return f"{package.title} computes on NVIDIA's cards, and torch on {kind}"
        if not package.knows("cuda", torch.cuda.get_device_capability(device)):
            card = torch.cuda.get_device_name(device)
            return f"{package.title} has no kernels for {card}; TensorRT has: {TENSORRT.install}"
        missing = package.missing()
        if missing:
            return missing
        if not self.for_rtx and _numbers(self.version())[:2] < _OLDEST:
            return f"TensorRT {self.version()} is older than {'.'.join(map(str, _OLDEST))}: {package.install} --upgrade"
        return ""

    def build(self, work: Work, target: Path) -> None:
        """Write as ONNX, choose kernels on the card, and serialise into the file `target`. Raises `TraceError`, and
        `CompileError` where TensorRT lacks operations of the model, or the card memory."""
        library = self._library()
        model = work.scratch / "model.onnx"
        write_onnx(work, model)
        shape = (work.example.shape[0], work.example.shape[1], work.example.shape[2], work.example.shape[3])
        profiles = plan(work.shapes, shape, largest_tensor(work))
        torch.cuda.empty_cache()  # TensorRT takes memory beside torch's to try kernels
        with torch.cuda.device(work.device):
            made = self._serialised(library, work, model, profiles)
            engine = EngineFile(self.name, self.version(), card_of(work.device), profiles, made)
            if self.for_rtx:  # once here, so that it has compiled its kernels before somebody waits for them
                forward = TensorRtForward(library, engine, work.device)
                forward(work.example)
                torch.cuda.synchronize(work.device)
                engine = replace(engine, kernels=forward.kernels())
        engine.write(target)

    def bytes_held(self, file_bytes: int) -> int:
        """Its weights. What it works in is torch's, while a batch is computed. See `Engine.bytes_held`."""
        return file_bytes

    def load(self, path: Path, device: torch.device) -> Forward:
        """The forward in a file that `build` made. See `Engine.load`."""
        engine = EngineFile.read(path)
        made, here = (engine.library, engine.version), (self.name, self.version())
        if made != here:
            raise CompileError(f"it was compiled by {' '.join(made)}, and here is {' '.join(here)}; compile it anew")
        card = card_of(device)
        if engine.card != card:
            raise CompileError(f"it was compiled for {engine.card}, and here is {card}; it has to be compiled anew")
        return TensorRtForward(self._library(), engine, device)

    def _serialised(self, library: Any, work: Work, model: Path, profiles: tuple[Profile, ...]) -> bytes:
        log = new_log(library)
        builder = library.Builder(log)
        network = builder.create_network(1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = library.OnnxParser(network, log)
        if not parser.parse_from_file(str(model)):
            raise CompileError(f"{self.package.title} {self.version()} {_refused(parser)}")
        how = builder.create_builder_config()
        how.clear_flag(library.BuilderFlag.TF32)  # fp32 is fp32
        for profile in profiles:
            box = builder.create_optimization_profile()
            box.set_shape(INPUT, profile.least, profile.typical, profile.most)
            how.add_optimization_profile(box)
        timings = None
        if self.for_rtx:  # without this it builds for several kinds of cards, Turing's not among them
            how.num_compute_capabilities = 1
            how.set_compute_capability(library.ComputeCapability.CURRENT, 0)
        else:
            timings = self._timings(work)
            _know(how, _read(timings))
        made = builder.build_serialized_network(network, how)
        if made is None:
            raise CompileError(f"{self.package.title} cannot compile it: {log.said()}")
        if timings is not None:
            _write(timings, bytes(how.get_timing_cache().serialize()))
        return bytes(made)

    def _timings(self, work: Work) -> Path:
        """Where is kept what TensorRT's kernels took on this card, for the next model or size: beside the scratch
        folders, which are swept when nothing has written there for a day."""
        digest = hashlib.sha256(f"{self.version()} {card_of(work.device)}".encode()).hexdigest()[:16]
        return work.scratch.parent / f"{self.name}-{digest}.timings"

    def _library(self) -> Any:
        return importlib.import_module(self.name.replace("-", "_"))


def _refused(parser: Any) -> str:
    """What TensorRT's parser does not take, in words: the operations by name, or else its first complaint."""
    errors = [parser.get_error(number) for number in range(parser.num_errors)]
    names = sorted({name for name in (error.node_operator() for error in errors) if name})
    told = next((" ".join(error.desc().split()) for error in errors), "it does not say why")
    return f"does not take {', '.join(names)} of this model: {told}" if names else f"does not take this model: {told}"


def _know(how: Any, known: bytes) -> None:
    """Let the builder begin with the timings that are `known`, or, where it refuses them, with none."""
    cache = how.create_timing_cache(known)
    if cache is None or not how.set_timing_cache(cache, ignore_mismatch=False):
        how.set_timing_cache(how.create_timing_cache(b""), ignore_mismatch=False)


def _read(timings: Path) -> bytes:
    try:
        return read_own(timings, _MOST_TIMINGS)
    except (OSError, NotRegularError, ValueError):  # none yet, or none to trust
        return b""


def _write(timings: Path, content: bytes) -> None:
    """Whole or not at all; without, the next compile takes as long as this one."""
    with suppress(OSError):
        new = timings.with_suffix(f".{os.getpid()}")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        new.replace(timings)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))
