"""Tiles that came out faulty are computed again, alone: eagerly if they were compiled, then in better precisions.

This mends the cause, where postprocess.py mends the symptom. Only what is as faulty in fp32 and eager is left to that;
what merely looked faulty turns out to be the model's own way, and is not computed again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from ..api.errors import first_line
from ..api.model_info import ModelInfo
from ..api.options import Precision
from ..api.report import Repair
from ..kernels.numerics import OF_A_MODEL, compare
from ..memory import working_bytes
from ..models.execution import ExecutionMode
from .fallback import Execution, FallbackChain, Step
from .monitor import Monitor
from .observations import ModelObservations
from .progress import TileProgress
from .residency import bring, bring_back
from .tile_check import TileFault, TileStats, as_pictures, find_fault, measure_tiles

logger = logging.getLogger("cudaspeed")

_MILD: TileFault = "drifting colours"  # nothing that a picture could not be
_REPEATED = 2  # repairs of one model in one precision on one device, in all runs, that make it leave that precision
_ROOM = 2.0  # a model that shifts its tiles on purpose does not shift all of them alike
_PIECE = 96  # pixels of a side, at least, of what tells of a whole tile
_SEVERAL = 4  # pieces in a tile, or it is computed again as quickly itself


class _Attempt(NamedTuple):
    """A tile computed in `mode`, or eagerly in the same where that is None; and what is wrong with it now."""

    mode: ExecutionMode | None
    result: Tensor
    stats: TileStats
    fault: TileFault | None


class SuspectTile(NamedTuple):
    """A tile and how it was computed: the input [C, h, w], the result [C', sh, sw] ."""

    tile: Tensor
    result: Tensor
    stats: TileStats
    execution: Execution
    frame: int
    place: tuple[int, int]

    @property
    def precision(self) -> Precision:
        return self.execution.step.mode.precision


class TileRetry:
    """Looks after the tiles of one run. What it did to the frames that are kept goes into `repairs`."""

    def __init__(
        self,
        chain: FallbackChain,
        observations: ModelObservations,
        monitor: Monitor,
        progress: TileProgress,
        repairs: list[Repair],
        info: ModelInfo,
    ) -> None:
        self._chain, self._observations, self._repairs, self._info = chain, observations, repairs, info
        self._context, self._progress = monitor, progress
        self._noted: list[Repair] = []
        self._counted: set[tuple[int, tuple[int, int]]] = set()
        self._due: tuple[ExecutionMode, bool] | None = None

    def settle(self, suspect: SuspectTile) -> tuple[Tensor, TileFault | None]:
        """The best result there is for a tile, and what is still wrong with it. A tile that is well costs nothing.

        Raises what the context raises, its interrupt and its out-of-memory error included.
        """
        fault = self._fault(suspect.stats, suspect.tile, suspect.result)
        if fault is None or self._is_its_own(fault, suspect):
            return suspect.result, fault
        attempt = self._told_by_piece(suspect, fault) or self._compute_again(suspect)
        if attempt is None:
            self._accept(fault, suspect.stats)
            return suspect.result, fault
        if attempt.fault:
            self._accept(attempt.fault, attempt.stats)
        same = self._same(suspect, attempt)
        if same and attempt.fault is None:  # at the very limit of what is well
            return suspect.result, None
        if attempt.fault in (None, _MILD) and not same:
            self._note(suspect, fault, attempt.mode)
        elif same and attempt.fault == fault and fault in self._observations.kinds and self._as_wide(suspect):
            self._observations.alike.add((fault, suspect.execution.step.mode))  # no attempt need be made again
        elif attempt.mode and attempt.fault != _MILD and self._count(suspect, attempt.fault):
            self._due = attempt.mode, False  # no better, but no attempt is then made twice
        return (suspect.result if same else attempt.result), attempt.fault

    def confirm(self, frame: int) -> None:
        """That frame is complete: what was done to it stays."""
        self._repairs += [repair for repair in self._noted if repair.frame == frame]
        self._noted = [repair for repair in self._noted if repair.frame != frame]

    def discard(self) -> None:
        """Frames that were worked on and not confirmed will be done again."""
        self._noted = []

    def fall_back(self) -> bool:
        """Leave a precision in which tiles were faulty again and again, or compiled code that gave faulty tiles.

        True when the frames in work had better be done anew: what looked well in them may not be.
        """
        if not self._due:
            return False
        (mode, for_good), self._due = self._due, None
        self._repairs += self._noted  # what led to it is to be told, though the tiles are computed once more
        self._noted = []
        if mode in self._chain.safer:
            self._chain.fall_back(mode, for_good)
        return True

    def _ways(self, suspect: SuspectTile) -> Iterator[tuple[ExecutionMode | None, Step]]:
        """The better ways to compute it, best last; None stands for its own mode, eagerly."""
        if suspect.execution.mode.backend != "eager":
            yield None, suspect.execution.step
        for mode in self._chain.safer:
            yield mode, self._chain.step(mode)

    def _told_by_piece(self, suspect: SuspectTile, fault: TileFault) -> _Attempt | None:
        """The tile as it is, where torch's own kernels can be told to give the same: a small piece of it, cut from
        where it is odd, is as odd by them, and the same but for rounding. None where not, or it cannot be told."""
        if not (self._chain.safer and self._as_wide(suspect)) or suspect.execution.mode.backend != "eager":
            return None
        mode = self._chain.safer[-1]
        piece = self._piece_of(suspect)
        if piece[0].numel() * _SEVERAL > suspect.tile[0].numel():
            return None
        try:
            results = [self._compute(step, piece[None]) for step in (suspect.execution.step, self._chain.step(mode))]
        finally:
            bring_back(self._context, self._chain.now.runner, 0)
        own, best = results
        if own is None or best is None:
            return None
        faults = {self._fault_of(piece, result) for result in (own, best)}
        if len(faults) > 1 or None in faults:
            return None
        told = _Attempt(mode, suspect.result, suspect.stats, fault)
        return told if self._same(suspect._replace(result=own[0]), told._replace(result=best[0])) else None

    def _fault_of(self, tile: Tensor, results: Tensor) -> TileFault | None:
        """What is wrong with `results` [1, C', sh, sw] of `tile` [C, h, w]."""
        return self._fault(self._stats(tile, results), tile, results[0])

    def _stats(self, tile: Tensor, results: Tensor) -> TileStats:
        return TileStats(*measure_tiles(*as_pictures(tile[None], results, self._info.samples))[0].tolist())

    def _fault(self, stats: TileStats, tile: Tensor, result: Tensor) -> TileFault | None:
        def picture() -> Tensor:
            return as_pictures(tile[None], result[None], self._info.samples)[1][0]

        return find_fault(stats, picture, self._observations.most_shift)

    def _piece_of(self, suspect: SuspectTile) -> Tensor:
        """A piece [C, h, w] of its tile: around the value of its result that is furthest from a picture's."""
        result, tile = suspect.result, suspect.tile
        odd = int((result.float() - 0.5).abs().amax(dim=0).argmax())
        scale = result.shape[-1] // tile.shape[-1] or 1
        centre = [index // scale for index in divmod(odd, result.shape[-1])]
        alignment = self._info.alignment
        side = -(-_PIECE // alignment) * alignment
        for dim, (middle, have) in enumerate(zip(centre, tile.shape[1:], strict=True), start=1):
            origin = max(0, min(middle - side // 2, have - side)) // alignment * alignment
            tile = tile.narrow(dim, origin, min(side, have))
        return tile

    def _compute_again(self, suspect: SuspectTile) -> _Attempt | None:
        """The first attempt that is well, else the last one; None where there is no better way than it was."""
        attempt = None
        try:
            for mode, step in self._ways(suspect):
                result = self._compute(step, suspect.tile[None])
                if result is not None:
                    stats = self._stats(suspect.tile, result)
                    fault = self._fault(stats, suspect.tile, result[0])
                    attempt = _Attempt(mode, result[0], stats, fault)
                    if fault is None:
                        break
        finally:
            # what was visited may have pushed it out, and memory that ran out there is no reason to leave it so
            bring_back(self._context, self._chain.now.runner, 0)
        return attempt

    def _compute(self, step: Step, tile: Tensor) -> Tensor | None:
        self._context.raise_if_interrupted()
        pixels = tile.shape[2] * tile.shape[3]
        device = self._context.device
        # the run's own weights lie where the whole of it was found to fit: how, is not asked beside what is in work
        brought = bring_back if step.runner is self._chain.now.runner else bring
        brought(self._context, step.runner, working_bytes(step.cost.at_hand(device), pixels, device))
        try:
            with self._progress.computing(step.runner, tile, "eager"):
                return step.runner.forward(tile)
        except Exception as error:  # an architecture may fail in any way in a type it does not know
            self._context.raise_kept()
            if self._context.is_out_of_memory(error):
                raise
            logger.debug("a tile cannot be computed again in %s: %s", step.mode, first_line(error))
            return None

    def _same(self, suspect: SuspectTile, attempt: _Attempt) -> bool:
        """Whether another way gave the same, but for rounding."""
        if not (math.isfinite(suspect.stats.low) and math.isfinite(suspect.stats.high)):
            return False  # what is no number is not compared
        precisions = {suspect.precision, attempt.mode.precision if attempt.mode else suspect.precision}
        coarser = "bf16" if "bf16" in precisions else suspect.precision
        return compare(suspect.result[None], attempt.result[None], OF_A_MODEL[coarser]) is None

    def _as_wide(self, suspect: SuspectTile) -> bool:
        """Whether nothing that is better than how it was computed has numbers of another range, or all its layers in a
        more precise type: what differs by rounding alone is no fault."""
        same = all(mode.precision == suspect.precision for mode in self._chain.safer)
        return same or suspect.execution.step.mode.only_products

    def _is_its_own(self, fault: TileFault, suspect: SuspectTile) -> bool:
        """Whether the model is known to do so, and no better way to differ from this one."""
        known = fault in self._observations.kinds
        return known and (not self._chain.safer or (fault, suspect.execution.step.mode) in self._observations.alike)

    def _accept(self, fault: TileFault, stats: TileStats) -> None:
        """It is the model that is so."""
        if fault == _MILD:
            self._observations.most_shift = max(self._observations.most_shift, _ROOM * stats.shift)
            return
        self._observations.defer_clamp = self._info.samples.limits is not None  # no latent is mended as a picture
        if fault in ("a broken range", "no detail"):  # of all its tiles; the others come and go
            self._observations.kinds.add(fault)

    def _note(self, suspect: SuspectTile, fault: TileFault, mode: ExecutionMode | None) -> None:
        """`suspect` was faulty, and is well in `mode`; None: in its own, eagerly."""
        before, eager = suspect.execution.mode.name, suspect.execution.step.mode
        after = mode.name if mode else eager.name
        self._noted.append(Repair(suspect.frame, suspect.place, fault, before, after))
        logger.debug("frame %d, tile %s: %s in %s, well in %s", suspect.frame, suspect.place, fault, before, after)
        if mode is None:
            suspect.execution.executor.distrust(f"a tile had {fault}, and has not when computed eagerly")
            self._due = eager, False
        elif self._count(suspect, fault):
            self._due = mode, True

    def _count(self, suspect: SuspectTile, fault: TileFault | None) -> bool:
        """Whether that was one tile too many. A broken range is of the model, and no second tile need tell so."""
        key, place = (str(suspect.execution.step.mode), str(self._context.device)), (suspect.frame, suspect.place)
        if place not in self._counted:  # and not a frame that is done anew
            self._counted.add(place)
            self._observations.repairs[key] += 1
        return fault == "a broken range" or self._observations.repairs[key] >= _REPEATED
