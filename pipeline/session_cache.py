"""What a process keeps of the models that it met, from one run to the next: copies, choices, measurements."""

from __future__ import annotations

import time
import weakref
from dataclasses import dataclass, field
from pathlib import Path

import torch
from spandrel import ImageModelDescriptor
from torch import nn

from ..api.context import RunContext
from ..compile_cache import CompileCache
from ..kernels.timing import Clock
from ..memory import MemoryCost
from ..models.precision import PrecisionChooser
from ..models.runner import RunnerCache
from ..storage.fingerprint import versions_of
from ..storage.profiles import ModelProfile, ProfileStore, profiles_folder
from .observations import ModelObservations


@dataclass
class ModelRecord:
    """What this process found out about one model, and another one would find out anew.

    By place (mode, hardware and torch): `autotuned`, what each try to find the fastest mode on a busy machine came to,
    the newest last; `rates`, the seconds a megapixel that runs have seen, by a forward's pixels (rounded); `probed`,
    the most pixels of work ahead for which its throughput was measured. `pixels` are those of all runs. `costs` of a
    forward are by what they depend on: type, and whether kernels are plain. `observations` hold for the weights of
    these `versions`.
    """

    pixels: int = 0
    autotuned: dict[str, list[str]] = field(default_factory=dict)
    rates: dict[str, dict[int, list[float]]] = field(default_factory=dict)
    probed: dict[str, int] = field(default_factory=dict)
    costs: dict[tuple[torch.dtype, bool], MemoryCost] = field(default_factory=dict)
    observations: ModelObservations = field(default_factory=ModelObservations)
    versions: tuple[int, ...] = ()


class SessionCache:
    """All of it is kept by the caller's module and gone with it, but for what lies in the context's cache folder.

    Everything that decides how a model is computed is measured by `clock`.
    """

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self.clock = clock
        self.runners = RunnerCache()
        self.precisions = PrecisionChooser(self.runners)
        self.compiles = CompileCache()
        self._profiles: dict[Path, ProfileStore] = {}
        self._records: weakref.WeakKeyDictionary[nn.Module, ModelRecord] = weakref.WeakKeyDictionary()

    def record(self, model: ImageModelDescriptor) -> ModelRecord:
        """What this process has seen of the model; what it observed of other weights in the same module is
        forgotten."""
        record = self._records.setdefault(model.model, ModelRecord())
        versions = versions_of(model.model)
        if record.versions != versions:
            record.observations, record.versions = ModelObservations(), versions
        return record

    def profile(self, model: ImageModelDescriptor, context: RunContext) -> ModelProfile:
        """What is known of the model with its present weights, in this session and earlier ones."""
        folder = profiles_folder(context.cache_folder)
        return self._profiles.setdefault(folder, ProfileStore(folder)).of(model.model)
