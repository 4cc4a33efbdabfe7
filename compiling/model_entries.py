"""What the store knows of one model, compiled in one mode for one device: an entry for each shapes of its tiles."""

from __future__ import annotations

import hashlib
import json
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn

from ..api.model_info import Kernels, ModelInfo
from ..backends.offer import full_name, takes_one_size, tiles_at_once
from ..backends.shapes import TileShapes
from ..models.execution import ExecutionMode
from ..models.exported import ExportedModel
from ..storage.artifacts import ArtifactStore, Entry
from ..storage.fingerprint import describe_environment
from .policy import Expectation, expect

_CLEARLY_SLOWER = 1.1
_OF_WHAT_IS_ASKED_FOR = 0.01  # of eager's price: taken wherever it can be, whatever it takes
_ONLY_FOR_COMPILING = ("compiler", "headers")  # loading needs neither: they matter to what failed
_EXPORTED = "exported"
_LATELY = 7 * 24 * 3600.0


class Subject(NamedTuple):
    """The model that a runner is a copy of, by its module's `content`; it must not live on because its copy is
    compiled. `exported`: the file whose weights it has, where programs came with them."""

    module: weakref.ref[nn.Module]
    info: ModelInfo
    architecture: str
    content: str
    exported: ExportedModel | None = None


class ModelEntries:
    """Changes nothing. `engine` is what was asked for instead of torch's own compiler, or ""; `mode` that in which the
    model is compiled: without our modules, of which a compiler makes others of its own. `exported`: the file with a
    program that the engine takes for `exported_shapes`, if the model came with one."""

    def __init__(
        self, store: ArtifactStore, subject: Subject, mode: ExecutionMode, device: torch.device, engine: str
    ) -> None:
        # with which kernels eager computes is nothing to an engine that is not measured by it
        plain = subject.info.convolutional or mode.kernels == "plain" or bool(engine and takes_one_size(engine))
        kernels: Kernels = "plain" if plain else "attention"
        # an engine chooses its own layout: what it made stays good where eager comes to have another
        channels_last = mode.channels_last and not engine
        self.mode, self.engine = replace(mode, kernels=kernels, channels_last=channels_last), engine
        self._store, self._subject, self._device = store, subject, device
        surroundings = describe_environment(device)
        self.environment = _digest(surroundings)
        self.what = {
            "model": subject.info.name,
            "architecture": subject.architecture,
            "weights": subject.content,
            "precision": f"{mode.precision}{' autocast' if mode.autocast else ''}",
            "layout": "channels last" if channels_last else "contiguous",
            **({} if kernels == "plain" else {"kernels": kernels}),
            **({"engine": full_name(engine)} if engine else {}),
            **{name: value for name, value in surroundings.items() if name not in _ONLY_FOR_COMPILING},
        }
        self.id = _digest(self.what)
        self.what["id"] = self.id  # so that what is compiled of it is found without comparing all the rest
        self.exported = subject.exported if engine and takes_one_size(engine) else None
        self.exported_shapes: TileShapes | None = None
        if self.exported:
            tile = self.exported.info.tile
            self.exported_shapes = TileShapes.one(*tile, tiles_at_once(engine, tile))

    def what_of(self, shapes: TileShapes) -> dict[str, str]:
        """What is told of the entry for these shapes. A program from elsewhere is no other model's of equal weights."""
        return {**self.what, "shapes": str(shapes), **self._exported_for(shapes)}

    def id_of(self, shapes: TileShapes) -> str:
        """The id of that entry."""
        return _digest(self.what_of(shapes))

    def by_shapes(self) -> dict[TileShapes, Entry]:
        """What is known of all of its shapes."""
        found = {}
        for entry in self._store.entries().values():
            if entry.what.get("id") == self.id and "shapes" in entry.what:
                with suppress(ValueError):  # not ours: someone wrote into the index
                    shapes = TileShapes.parse(entry.what["shapes"])
                    if entry.what.get(_EXPORTED) == self._exported_for(shapes).get(_EXPORTED):
                        found[shapes] = entry
        return found

    def compiling(self) -> TileShapes | None:
        """The shapes being compiled now, in this process or another."""
        return next((shapes for shapes, entry in self.by_shapes().items() if entry.state == "compiling"), None)

    def has_failed(self, entry: Entry | None) -> bool:
        """Whether it failed, and nothing has changed since."""
        return entry is not None and entry.state == "failed" and entry.environment == self.environment

    def failure(self, entries: Mapping[TileShapes, Entry], any_scope: bool = False) -> str | None:
        """Why nothing more is compiled: what this machine lacks, or what this model failed at; with `any_scope` also
        what it failed at for some shapes only."""
        for entry in self._store.entries().values():
            if entry.scope == "environment" and self.has_failed(entry):
                return entry.reason
        failed = filter(self.has_failed, entries.values())
        return next((entry.reason for entry in failed if any_scope or entry.scope == "model"), None)

    def expectation(self) -> Expectation:
        """What a compile of it may be expected to take, and to save."""
        subject = self._subject
        entries = self._store.entries().values()
        return expect(entries, subject.architecture, self._device.type, subject.info.convolutional)

    def expected_cost(self) -> float:
        """What a pixel may be expected to cost compiled, eager being 1."""
        return _OF_WHAT_IS_ASKED_FOR if self.engine else 1.0 - self.expectation().share_saved

    def ready(self) -> dict[TileShapes, float]:
        """What is compiled, and is not known to be slower than eager, with what a pixel costs so: as it was found when
        that was done, or by earlier runs. What this one sees counts for the next."""
        costs = {shapes: self._cost(entry) for shapes, entry in self.by_shapes().items() if entry.state == "ready"}
        return {shapes: cost for shapes, cost in costs.items() if cost < _CLEARLY_SLOWER}

    def says_otherwise(self, shapes: TileShapes, relative: float) -> bool:
        """Whether what a run saw of compiled code, by eager, is to be kept: where nothing was known, or it was taken
        for faster and is clearly slower. Else every run would change the next one's mind."""
        if self.engine:  # nobody asks how fast it is
            return False
        entry = self.by_shapes().get(shapes)
        known = entry.compiled_rate / entry.eager_rate if entry and entry.compiled_rate and entry.eager_rate else 0.0
        return not known or (relative >= _CLEARLY_SLOWER > known)

    def _exported_for(self, shapes: TileShapes) -> dict[str, str]:
        return {_EXPORTED: self.exported.sha256} if self.exported and shapes == self.exported_shapes else {}

    def _cost(self, entry: Entry) -> float:
        if entry.compiled_rate and entry.eager_rate and is_fresh(entry) and not self.engine:  # else it may try again
            return entry.compiled_rate / entry.eager_rate
        return self.expected_cost()


def is_fresh(entry: Entry) -> bool:
    """Whether it was used within a week."""
    return time.time() - entry.used < _LATELY


def _digest(what: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:24]
