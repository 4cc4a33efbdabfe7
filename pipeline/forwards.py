"""A run's forwards: what may go wrong in one, and what becomes of a batch that memory does not suffice for."""

from __future__ import annotations

import logging
import traceback
from dataclasses import replace

from torch import Tensor

from ..api.errors import ModelFailedError, first_line
from ..backends.errors import DeviceFullError
from ..memory import working_bytes
from ..models.execution import Executor
from .fallback import Step
from .outcome import Outcome
from .pieces import in_pieces, smaller_forwards
from .progress import Forward, TileProgress
from .residency import bring_back
from .session import Session
from .still import StillTiles

logger = logging.getLogger("cudaspeed")


class ForwardFailedError(ModelFailedError):
    """The model raised something on a tile batch, or gave something else than tiles; the cause says what."""


class Forwards:
    """Runs a session's forwards, within `limits`, and finds out more of these. `outcome` is told of lacks of memory;
    `still` gives back what it keeps then."""

    def __init__(self, session: Session, outcome: Outcome, progress: TileProgress, still: StillTiles) -> None:
        self._still = still
        self._session, self._outcome, self._progress, self._context = session, outcome, progress, progress.monitor
        self._noted: set[str] = set()
        self.limits = session.room.limits(session.chain.now.cost)

    def run(self, step: Step, executor: Executor, tiles: Tensor) -> tuple[Forward, Tensor]:
        """`executor(tiles)`, and how that went. Where memory does not suffice, once more when all that can be was given
        back, then in ever smaller pieces, which later forwards keep to.

        Raises `ForwardFailedError` for what the model does, an error that tells of a lack of memory where the least
        piece does not fit either, and whatever the context raises for an interrupt.
        """
        pixels, limit = len(tiles) * tiles[0, 0].numel(), self.limits.max_pixels
        if limit is None or pixels <= limit:
            try:
                return self._once(step, executor, tiles)
            except Exception as error:  # torch has several types for a lack of memory
                if not self._context.is_out_of_memory(error):
                    raise
                self._make_room(error, step, pixels)
                # torch computes these in main memory, which would have room for tiles that an engine's device has not
                limit = tiles[0, 0].numel() // 2 if isinstance(error, DeviceFullError) else pixels
        height, width = tiles.shape[2:]
        sizes = [*smaller_forwards(len(tiles), height, width, self._session.known.info)]
        *others, last = [size for size in sizes if size <= limit] or sizes[-1:]
        for most in others:
            self._keep_to(most, tiles)
            try:
                return self._in_pieces(step, tiles, most)
            except Exception as error:  # the same
                if not self._context.is_out_of_memory(error):
                    raise
                self._make_room(error, step, most)
        self._keep_to(last, tiles)
        return self._in_pieces(step, tiles, last)

    def note(self, kind: str, text: str) -> None:
        """For the report, if nothing of this `kind` is in it: the first time tells enough."""
        logger.info("%s", text)
        if kind not in self._noted:
            self._noted.add(kind)
            self._session.notes.append(text)

    def note_lack_of_memory(self, tile: tuple[int, int], count: int) -> None:
        """For the report, that so many of `tile` (height, width) did not fit."""
        what = f"one tile of {tile[1]}x{tile[0]}, {count} at a time"
        self.note("memory", f"memory ran out with {what}, and the rest was computed with less")

    # --- details -----------------------------------------------------------------------------------------------------

    def _make_room(self, error: Exception, step: Step, pixels: int) -> None:
        """Give back what can be, after `error`, and ask the host for room for a forward of so many input pixels."""
        forget_tensors(error)
        self._outcome.out_of_memory += 1
        self._still.stop()
        step.runner.release_graphs()
        self._context.release_cached()
        device = self._context.device
        bring_back(self._context, step.runner, working_bytes(step.cost.at_hand(device), pixels, device))

    def _keep_to(self, pixels: int, tiles: Tensor) -> None:
        """No forward has more than so many input pixels from now on, if `tiles` at once, which did not fit, have."""
        if pixels < min(len(tiles) * tiles[0, 0].numel(), self.limits.max_pixels or pixels + 1):
            self.note_lack_of_memory((tiles.shape[2], tiles.shape[3]), len(tiles))
            self.limits = replace(self.limits, max_pixels=pixels, frames_on_device=False, keeps_tiles=False)
            self._session.room.remember_limit(self._session.chain.now.cost, pixels)

    def _in_pieces(self, step: Step, tiles: Tensor, most: int) -> tuple[Forward, Tensor]:
        """By eager forwards of at most `most` input pixels; the last of them."""
        executor, told = step.runner.executor(self._context.device), []

        def run(piece: Tensor) -> Tensor:
            forward, results = self._once(step, executor, piece)
            told[:] = [forward]
            return results

        results = in_pieces(run, tiles, self._session.known.info, most)
        return told[0], results

    def _once(self, step: Step, executor: Executor, batch: Tensor) -> tuple[Forward, Tensor]:
        """The model's own failures, and only they, become `ForwardFailedError`: an interrupt is none, whatever the
        model made of it."""
        try:
            watching = self._session.peaks.watching(step, executor.mode, len(batch) * batch[0, 0].numel())
            with self._progress.computing(step.runner, batch, executor.mode.backend) as forward, watching:
                results = executor(batch)
            return forward, results
        except ModelFailedError as error:  # its result was not what it should be
            self._context.raise_kept()
            raise ForwardFailedError(str(error)) from error
        except Exception as error:  # architectures fail in all sorts of ways
            self._context.raise_kept()
            if self._context.is_out_of_memory(error):
                raise
            raise ForwardFailedError(
                f"{self._session.known.info.name} fails on {len(batch)} tile(s) of {batch.shape[3]}x{batch.shape[2]} "
                f"({first_line(error)}); choose another tile size, or another model"
            ) from error


def forget_tensors(error: BaseException) -> None:
    """Let go of what the functions that `error` went through were working on; where they stood stays known."""
    for told in (error, error.__cause__, error.__context__):
        if told is not None:
            traceback.clear_frames(told.__traceback__)
