"""Some frames in work: cut into tiles for the model, and put together from the results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..api.errors import BrokenOutputError
from ..api.model_info import ModelInfo
from ..images.channels import ChannelPlan
from ..postprocess import FrameVerdict, heal
from ..tiling.blend import TileBlender
from ..tiling.pad import WrapPadding, cut_tile, to_canvas
from ..tiling.resample import Resampler
from .preview import Spot
from .resizing import FrameResizer
from .scheduler import Schedule
from .still import Place, Seat, StillTiles
from .streams import Event
from .transfer import Transfer

# The share of values that may be NaN or infinite, and are filled. A frame with more is no picture.
_MOST_REPAIRED = 0.5


class Job(NamedTuple):
    """One tile: `picture` counts through the group's pictures, `row` and `column` through the plan."""

    picture: int
    row: int
    column: int


class Part(NamedTuple):
    """The next `jobs`, in their order, each with the seat where it would be computed. Those in `seats` are, in a batch
    of so many tiles; the others' tiles are known. No seats: there is nothing to compute."""

    jobs: dict[Job, Seat]
    seats: dict[Job, Seat]


class FinishedFrame(NamedTuple):
    """A frame, by its `number`, of which nothing is left to do; its pixels are in their place when `arrived` is
    past. `handed_on` of its `tiles` were not computed; if it is `repeated`, it is the frame before once more."""

    number: int
    verdict: FrameVerdict
    arrived: Event
    tiles: int = 0
    handed_on: int = 0
    repeated: bool = False


@dataclass(frozen=True)
class FrameSetup:
    """How frames become tiles and tiles become frames, the same for all frames of a schedule.

    With `defer_clamp` the rows of pictures come to their place as they are, not clamped to 0..1 on the way, and frames
    that have faulty tiles are looked after as a whole. With `resampler` frames of the model's size are made that of the
    results.
    """

    schedule: Schedule
    info: ModelInfo
    channels: ChannelPlan
    padding: WrapPadding
    device: torch.device
    defer_clamp: bool
    resampler: Resampler | None = None

    @property
    def clamps(self) -> bool:
        """Rows are brought within the samples' limits on their way."""
        return self.channels.samples.limits is not None and not self.defer_clamp

    @property
    def direct(self) -> bool:
        """The model's pictures are the frames: nothing has to be made of them."""
        return self.channels.direct and not self.padding

    @property
    def resized_by_rows(self) -> bool:
        """Frames are made another size while their rows come: nowhere is one of the model's size."""
        return self.resampler is not None and self.direct and not self.defer_clamp

    @property
    def on_device(self) -> bool:
        """Frames are made of the model's pictures where the model computes."""
        return self.schedule.frames_on_device and not self.direct


class FrameGroup:
    """Some frames on their way from a transfer's source to its sink, each with how many come after it that are the
    same (`frames`). Tiles are added in the order of `jobs`; `still` knows which need not be computed. `stop` is
    the frame after all of them."""

    def __init__(self, frames: Mapping[int, int], setup: FrameSetup, transfer: Transfer, still: StillTiles) -> None:
        self.setup, self._frames, self._transfer, self._still = setup, [*frames], transfer, still
        self._repeats = frames
        self._plan, self._channels = setup.schedule.plan, setup.channels
        last, same = max(frames.items())
        self.stop = last + same + 1
        self._tiles = self._channels.pictures_per_frame * self._plan.count
        self._jobs_cut = 0
        self._canvases: dict[int, Tensor] = {}  # picture -> what its tiles are cut from
        self._sources: dict[int, Tensor] = {}  # frame -> the frame with its padding, where it is prepared
        self._targets: dict[int, Tensor] = {}  # frame -> where its pictures' rows go, but for
        self._resizers: dict[int, FrameResizer] = {}  # frame -> what its rows go through
        self._faulty: set[int] = set()
        self._handed_on: Counter[int] = Counter()
        # what whole frames are judged by, and what is filtered, is not rounded
        widen = setup.defer_clamp or setup.resampler is not None or transfer.download.widens
        self._blender = TileBlender(self._plan, setup.info.scale, widen)
        self.jobs = [
            Job(picture, row, column)
            for picture in range(len(frames) * self._channels.pictures_per_frame)
            for row in range(len(self._plan.rows.origins))
            for column in range(len(self._plan.columns.origins))
        ]

    @property
    def share_left(self) -> float:
        """How much of the work is in no part yet."""
        return 1 - self._jobs_cut / len(self.jobs)

    def next_part(self, most: int) -> Part:
        """The next jobs, of which at most so many are computed.

        Whatever stands still, a tile is computed in a batch of as many, and at the same place of it, as if all of the
        group were computed: its last bits depend on that.
        """
        total, first = len(self.jobs), self._jobs_cut
        whole = total - total % most
        begin, size = (0, most) if first < whole else (whole, total - whole)
        part = Part({}, {})
        for number in range(first, whole if first < whole else total):
            job, seat = self.jobs[number], (size, (number - begin) % size)
            self._prepare(self.frame_of(job))
            if not self._still.is_known(*self.place_of(job), seat):
                if seat in part.seats.values():
                    break
                part.seats[job] = seat
                self._still.expect(*self.place_of(job), seat)
            part.jobs[job] = seat
        self._jobs_cut += len(part.jobs)
        return part

    def frame_of(self, job: Job) -> int:
        """The frame of the whole input that a tile belongs to."""
        return self._frames[job.picture // self._channels.pictures_per_frame]

    def place_of(self, job: Job) -> tuple[int, Place]:
        """The same, and where the tile lies in it."""
        return self.frame_of(job), (job.picture % self._channels.pictures_per_frame, job.row, job.column)

    def spot_of(self, job: Job) -> Spot | None:
        """Where it is seen what came of a tile; None of alpha, which is not."""
        frame, (k, row, column) = self.place_of(job)
        seen = 3 if self._channels.one_by_one else 1
        if k >= seen:
            return None
        rows, columns, scale = self._plan.rows, self._plan.columns, self.setup.info.scale
        number = (k * len(rows.origins) + row) * len(columns.origins) + column
        return Spot(
            frame=frame,
            size=(rows.size * scale, columns.size * scale),
            corner=(rows.origins[row] * scale, columns.origins[column] * scale),
            channel=k if seen > 1 else None,
            left=seen * self._plan.count - number - 1,
        )

    def cut(self, part: Part) -> Tensor:
        """The tile batch [N, C, h, w] float32 on the device, of a part with something to compute. Where no job has its
        seat there is any of the tiles, once more."""
        tiles = {number: self._tile(job) for job, (_, number) in part.seats.items()}
        size, any_tile = next(iter(part.seats.values()))[0], next(iter(tiles.values()))
        return torch.stack([tiles.get(number, any_tile) for number in range(size)])

    def _tile(self, job: Job) -> Tensor:
        return cut_tile(self._canvases[job.picture], self._plan, (job.row, job.column), self.setup.info.wraparound)

    def _prepare(self, frame: int) -> None:
        """Have what the frame's tiles are cut from, and look at what of it stands still."""
        if frame in self._sources:
            return
        pictures = self._channels.pictures_per_frame
        first = self._frames.index(frame) * pictures
        source = self._sources[frame] = self.setup.padding.pad(self._transfer.upload.frame(frame))
        for k, picture in enumerate(self._channels.to_model(source)):
            self._canvases[first + k] = to_canvas(picture, self._plan, self.setup.device)
        if self.setup.schedule.keeps_tiles:
            jobs = (job for job in self.jobs if first <= job.picture < first + pictures)
            self._still.see([self._canvases[picture] for picture in range(first, first + pictures)])
            self._still.look_at(frame, {self.place_of(job)[1]: self._tile(job) for job in jobs})

    def hand_on(self, job: Job, known: tuple[Tensor, Event]) -> FinishedFrame | None:
        """`add` for a tile that was not computed: what came of an equal one before, and when that is there."""
        self._handed_on[self.frame_of(job)] += 1
        return self.add(job, *known, faulty=False)

    def again(self, finished: FinishedFrame) -> Iterator[FinishedFrame]:
        """The frames after one of the group's that are the same."""
        first = finished.number + 1
        for number in range(first, first + self._repeats[finished.number]):
            yield finished._replace(number=number, handed_on=self._tiles, repeated=True)

    def add(self, job: Job, tile: Tensor, computed: Event, faulty: bool) -> FinishedFrame | None:
        """Take the upscaled tile [C', h*s, w*s] of `job`, there when `computed` is past; its frame when that is
        complete, else None.

        `faulty`: something is wrong with it that can only be mended in the whole picture. Raises `BrokenOutputError`
        when the frame turns out to be no picture.
        """
        frame, (k, _, _) = self.place_of(job)
        if faulty:
            self._faulty.add(frame)
        with self._transfer.download.leaving(computed, tile, self._sources[frame]):
            rows = self._blender.add(job.row, job.column, tile)
            if rows is None:
                return None
            self._put(frame, k, *rows)
            if job.row + 1 < len(self._plan.rows.origins):
                return None
            del self._canvases[job.picture]
            if k + 1 < self._channels.pictures_per_frame:
                return None
            return self._finish(frame)._replace(tiles=self._tiles, handed_on=self._handed_on[frame])

    def _put(self, frame: int, k: int, top: int, rows: Tensor) -> None:
        """Finished rows of a frame's `k`-th picture go to their place."""
        if self.setup.resized_by_rows:
            self._resize(frame, rows)
            return
        if frame not in self._targets:
            self._targets[frame] = self._target(frame)
        target = self._targets[frame][k, top : top + len(rows)]
        if self.setup.on_device:
            target.copy_(rows.clamp(0, 1) if self.setup.clamps else rows)
        else:
            self._transfer.download.write(target, rows, clamp=self.setup.clamps)

    def _resize(self, frame: int, rows: Tensor) -> None:
        """Finished rows of a frame go to their place by way of its resizer."""
        if frame not in self._resizers:
            self._resizers[frame] = self._resizer()
        self._send(frame, self._resizers[frame].add(rows))

    def _resizer(self) -> FrameResizer:
        assert self.setup.resampler is not None
        return FrameResizer(self.setup.resampler, self._channels.has_alpha)

    def _send(self, frame: int, resized: Iterable[tuple[int, Tensor]]) -> None:
        """Rows of the sink's frame, (number of the first, rows [n, W, C]), go there from where they were computed."""
        place = self._transfer.sink.frame(frame)
        for first, rows in resized:
            self._transfer.download.write(place[first : first + len(rows)], rows, clamp=False)

    def _target(self, frame: int) -> Tensor:
        """Where a frame's pictures go, [pictures, H*s, W*s, model's channels]: the sink's frame where that is it."""
        if self.setup.direct and self.setup.resampler is None:
            return self._transfer.sink.frame(frame)[None]
        height, width = (axis.size * self.setup.info.scale for axis in (self._plan.rows, self._plan.columns))
        pictures, channels = self._channels.pictures_per_frame, self._channels.model_out
        device = self.setup.device if self.setup.on_device else self._transfer.sink.device
        return torch.empty(pictures, height, width, channels, device=device)

    def _finish(self, frame: int) -> FinishedFrame:
        download, setup, source = self._transfer.download, self.setup, self._sources.pop(frame)
        if setup.resized_by_rows:
            del self._resizers[frame]
            return FinishedFrame(frame, FrameVerdict(), download.written())
        whole, target, verdict = self._transfer.sink.frame(frame), self._targets.pop(frame), FrameVerdict()
        if not setup.direct or setup.resampler:
            if not setup.on_device:
                download.written().synchronize()
            made = target[0] if setup.direct else self._channels.from_model(target, source)
            made = setup.padding.crop(made, setup.info.scale)
            if setup.resampler:
                whole = made.contiguous() if setup.defer_clamp else made  # it may be looked after where it lies
            elif setup.on_device:
                download.write(whole, made, clamp=False)
            else:
                whole.copy_(made)
        arrived = download.written()
        if setup.defer_clamp:
            arrived.synchronize()
            verdict = self._look_after(frame, whole, target, source)
        if setup.resampler:
            self._send(frame, self._resizer().whole(whole))
            arrived = download.written()
        return FinishedFrame(frame, verdict, arrived)

    def _look_after(self, frame: int, whole: Tensor, target: Tensor, source: Tensor) -> FrameVerdict:
        """Bring `whole`, a frame of the model's size, to 0..1, where it lies, and mend it where tiles of it are
        faulty."""
        if frame not in self._faulty:
            whole.clamp_(0, 1)
            return FrameVerdict()
        reference = self._channels.reference(self._transfer.source.frame(frame))
        output = whole[..., : reference.shape[-1]]  # a view: the channels that the model made
        verdict = heal(output, reference)
        if verdict.broken and self._channels.alpha == "model":  # its alpha is as broken as its colours were
            plain = replace(self._channels, alpha="lanczos").from_model(target, source)
            whole[..., -1] = self.setup.padding.crop(plain, self.setup.info.scale)[..., -1]
        name = self.setup.info.name
        if verdict.non_finite > _MOST_REPAIRED * output.numel():
            raise BrokenOutputError(
                f"{verdict.non_finite} of the {output.numel()} values that {name} gave for frame {frame} are NaN or "
                "infinite, in fp32 too; is the model's file intact?"
            )
        if verdict.constant:
            raise BrokenOutputError(
                f"{name} gave one and the same value for all of frame {frame}, in fp32 too; is the model's file intact?"
            )
        return verdict
