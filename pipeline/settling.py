"""What came of tiles goes into their frames: of those that were computed, mended where it is faulty, and of those that
were not, because they stand still."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple
from weakref import WeakMethod

from torch import Tensor

from ..api.errors import BrokenOutputError
from .fallback import Execution
from .frames import FinishedFrame, FrameGroup, Job, Part
from .outcome import Outcome
from .progress import Forward, TileProgress
from .retry import SuspectTile, TileRetry
from .schedule_maker import Reschedule
from .session import Session
from .still import Seat, StillTiles
from .streams import Event
from .tile_check import TileStats
from .transfer import Transfer


class Batch(NamedTuple):
    """A tile batch that the device may still be computing: [N, C, h, w] in, [N, C', sh, sw] out, there when `computed`
    is past, and its stats, which `stats()` waits for."""

    tiles: Tensor
    results: Tensor
    computed: Event
    stats: Callable[[], Tensor]
    execution: Execution
    forward: Forward
    began: float

    @property
    def pixels(self) -> int:
        return len(self.tiles) * self.tiles[0, 0].numel()


class Work(NamedTuple):
    """A part of `group`, and the batch that is computed for it, if any."""

    group: FrameGroup
    part: Part
    batch: Batch | None


class Settling:
    """Of one run. `retry` looks after faulty tiles, `still` after those that stand still; `compute`, a method, computes
    a tile batch."""

    def __init__(
        self,
        session: Session,
        outcome: Outcome,
        progress: TileProgress,
        still: StillTiles,
        compute: Callable[[Tensor, Transfer], Batch],
    ) -> None:
        self._outcome, self._progress, self._still = outcome, progress, still
        self._compute = WeakMethod(compute)  # of who has this object: else both stayed, with the model, after their run
        self._observations, self._info = session.known.observations, session.known.info
        monitor, repairs = progress.monitor, outcome.repairs
        self.retry = TileRetry(session.chain, self._observations, monitor, progress, repairs, self._info)

    def settle(self, work: Work, stats: list[list[float]], transfer: Transfer) -> Iterator[FinishedFrame]:
        """Put the tiles of a part into their frames: those of its batch, with these stats, and those that are known.
        Gives frames that are complete, also where they come again.

        Raises `Reschedule` when what is in work had better be done another way.
        """
        group, part, batch = work
        if batch:
            self._tell_way(batch)
        for job, seat in part.jobs.items():
            if batch and job in part.seats:
                finished = self._take(group, job, batch, seat, stats, transfer)
            elif known := self._still.result(*group.place_of(job), transfer.download.leaving):
                self._show(group, job, known[0])
                finished = group.hand_on(job, known)
            else:  # what was known of it was taken back in between
                compute = self._compute()
                assert compute is not None
                alone = compute(group.cut(Part({job: seat}, {job: seat})), transfer)
                self._tell_way(alone)
                finished = self._take(group, job, alone, seat, alone.stats().tolist(), transfer)
            if finished is not None:
                yield finished
                yield from group.again(finished)

    def _tell_way(self, batch: Batch) -> None:
        step, _, mode = batch.execution
        self._still.computed_in((step.mode, mode.backend == "compiled"), batch.tiles.shape)

    def _take(
        self, group: FrameGroup, job: Job, batch: Batch, seat: Seat, stats: list[list[float]], transfer: Transfer
    ) -> FinishedFrame | None:
        """Mend what is faulty in a tile of a batch, and put it into its frame, which may be complete with it."""
        (frame, place), k = group.place_of(job), seat[1]
        suspect = SuspectTile(
            tile=batch.tiles[k],
            result=batch.results[k],
            stats=TileStats(*stats[k]),
            execution=batch.execution,
            frame=frame,
            place=place[1:],
        )
        result, left = self.retry.settle(suspect)
        if self.retry.fall_back():
            self._outcome.compiled = False
            raise Reschedule("going on in a safer way")
        if self._observations.defer_clamp and not group.setup.defer_clamp:
            raise Reschedule("the model leaves faults in the picture, whole frames are looked after")
        if left == "NaN or infinite values" and self._info.samples.limits is None:
            raise BrokenOutputError(
                f"{self._info.name} gave NaN or infinite values for latent {frame}, in fp32 too; is the model's file "
                "intact?"
            )
        self._progress.phase("putting the picture together")
        self._show(group, job, result)
        if result is suspect.result and left is None:
            self._still.keep(frame, place, seat, (result, batch.computed))
            return group.add(job, result, batch.computed, faulty=False)
        self._still.bar(frame, place)
        computed = batch.computed if result is suspect.result else transfer.computed()
        return group.add(job, result, computed, left not in (None, "drifting colours"))

    def _show(self, group: FrameGroup, job: Job, result: Tensor) -> None:
        """To who looks at the run, what came of a tile."""
        spot = group.spot_of(job) if self._progress.is_seen else None
        if spot:
            self._progress.came_out(spot, result)
