"""Compiled forwards of one working model, by tile batch shape, device and type; and whether a compile pays.

A compile is an investment: seconds to minutes once, a share of every later forward saved. It is made when the eager
time already spent on a key plus the work known to lie ahead repays it (the ski-rental rule), so one small picture never
waits for it. Whatever goes wrong while compiling or in compiled code, the eager forward takes over: a warning, never a
lost picture.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .contracts import Forward, first_line

logger = logging.getLogger("cudaspeed")

# Rules of thumb until they are measured per model: seconds that a compile takes, and the share of eager time it saves.
# CPU: a cold compile of Compact took 94-135 CPU-seconds; over eager code in channels last it saved 0-15 %.
_COMPILE_SECONDS = {"cpu": 120.0, "cuda": 45.0}
_SHARE_SAVED = {"cpu": 0.1, "cuda": 0.3}


@dataclass(frozen=True)
class CompileKey:
    """What a compiled forward of a model is good for. `shape` is the tile batch's [N, C, h, w]."""

    shape: tuple[int, ...]
    weight_dtype: torch.dtype
    autocast: str
    channels_last: bool
    device: str
    mode: str = "default"


@dataclass
class _Entry:
    compiled: Forward | None = None
    eager_seconds: float = 0.0
    works: bool = False
    failed: bool = False

    def give_up(self, error: Exception) -> None:
        """Say why, and never try again."""
        self.compiled, self.works, self.failed = None, False, True
        logger.warning("compiling failed, going on without it (%s: %s)", type(error).__name__, first_line(error))


@dataclass
class CompileCache:
    """The compiled forwards of one model; belongs to the working model and goes with it.

    `eager(x)` is what is compiled and what is fallen back to. `compiler` has `torch.compile`'s face.
    """

    eager: Forward
    compiler: Callable[..., Forward] = torch.compile
    _entries: dict[CompileKey, _Entry] = field(default_factory=dict)

    def get(self, key: CompileKey, seconds_ahead: float) -> Forward:
        """The forward to use now for `key`: compiled if it is there or if compiling pays, else eager.

        `seconds_ahead` is the eager time that the rest of this run would take. A compiled forward compiles in its first
        call, which therefore takes long.
        """
        entry = self._entry(key)
        if entry.failed:
            return self.eager
        if entry.compiled is None:
            if not self._pays(entry, key, seconds_ahead):
                return self.eager
            logger.info("compiling for tiles of %s on %s", "x".join(map(str, key.shape)), key.device)
            try:
                entry.compiled = self.compiler(self.eager, mode=key.mode, dynamic=False)
            except Exception as error:  # no compiler for this Python or system
                entry.give_up(error)
                return self.eager
        return lambda x: self._run(entry, x)

    def note_eager(self, key: CompileKey, seconds: float) -> None:
        """Eager time spent on a key counts towards the next decision."""
        self._entry(key).eager_seconds += seconds

    def is_compiled(self, key: CompileKey) -> bool:
        """Whether a compiled forward for `key` has given a result and may be used again."""
        return self._entry(key).works

    def _entry(self, key: CompileKey) -> _Entry:
        return self._entries.setdefault(key, _Entry())

    @staticmethod
    def _pays(entry: _Entry, key: CompileKey, seconds_ahead: float) -> bool:
        kind = "cpu" if key.device.startswith("cpu") else "cuda"
        return (entry.eager_seconds + seconds_ahead) * _SHARE_SAVED[kind] >= _COMPILE_SECONDS[kind]

    def _run(self, entry: _Entry, x: Tensor) -> Tensor:
        """The compiled forward; eager, now and from now on, if it fails."""
        if entry.compiled is None:
            return self.eager(x)
        try:
            result = entry.compiled(x)
        except Exception as error:  # compilers fail in every way there is; the eager model still gives the picture
            entry.give_up(error)
        else:
            entry.works = True
            return result
        return self.eager(x)  # out here, where the error no longer holds the failed call's tensors
