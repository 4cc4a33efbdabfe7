"""Some frames in work: cut into tiles for the model, put together from what becomes of them."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..api.errors import BrokenOutputError
from ..api.model_info import ModelInfo
from ..images.channels import ChannelPlan
from ..postprocess import FrameVerdict, heal
from ..tiling.blend import TileBlender
from ..tiling.pad import WrapPadding
from ..tiling.plan import Axis, TilePlan, places
from .streams import Event
from .transfer import Transfer

# Holes are repaired; a picture that is mostly hole is none.
_MOST_REPAIRED = 0.5


class Job(NamedTuple):
    """One tile: `picture` counts through the group's pictures, `row` and `column` through the plan."""

    picture: int
    row: int
    column: int


class Complete(NamedTuple):
    """A frame of which nothing is left to do; its pixels are in their place when `arrived` is past."""

    verdict: FrameVerdict
    arrived: Event


class FrameGroup:
    """The frames `frames` of `image` [B, H, W, C] on their way into `output` [B, H*s, W*s, C], tiled by `plan`.

    Tiles are added in the order of `jobs`. What they are made of is clamped to 0..1 on its way; if `defer_clamp`, it
    comes to the output as it is, and frames that have ill tiles are looked after as a whole. Frames that the model's
    pictures have to be made into are made `on_device` or where the output lies."""

    def __init__(
        self,
        image: Tensor,
        output: Tensor,
        frames: range,
        plan: TilePlan,
        info: ModelInfo,
        channels: ChannelPlan,
        padding: WrapPadding,
        transfer: Transfer,
        device: torch.device,
        defer_clamp: bool,
        on_device: bool,
    ) -> None:
        self._image, self._output, self._frames, self._plan = image, output, frames, plan
        self._info, self._channels, self._padding = info, channels, padding
        self._upload, self._download, self._device = transfer.upload, transfer.download, device
        self.defer_clamp = defer_clamp
        self._on_device = on_device and not self._direct
        self._jobs_cut = 0
        self._canvases: dict[int, Tensor] = {}  # picture -> what its tiles are cut from
        self._sources: dict[int, Tensor] = {}  # frame -> it with its borders, where it is prepared
        self._targets: dict[int, Tensor] = {}  # frame -> where its pictures' rows go
        self._ill: set[int] = set()
        # what whole frames are judged by is not rounded
        self._blender = TileBlender(plan, info.scale, widen=defer_clamp or self._download.widens)
        self.jobs = [
            Job(picture, row, column)
            for picture in range(len(frames) * channels.pictures_per_frame)
            for row in range(len(plan.rows.origins))
            for column in range(len(plan.columns.origins))
        ]

    @property
    def share_left(self) -> float:
        """How much of the work no batch has been cut for yet."""
        return 1 - self._jobs_cut / len(self.jobs)

    def next_jobs(self, most: int) -> list[Job]:
        """The jobs of the next batch, at most so many; none when all are cut."""
        return self.jobs[self._jobs_cut : self._jobs_cut + most]

    def frame_of(self, job: Job) -> int:
        """The frame of the whole input that a tile belongs to."""
        return self._frames[job.picture // self._channels.pictures_per_frame]

    def cut(self, jobs: list[Job]) -> Tensor:
        """The tile batch [N, C, h, w] float32 on the device, for N jobs."""
        for frame in sorted({self.frame_of(job) for job in jobs} - self._sources.keys()):
            first = (frame - self._frames[0]) * self._channels.pictures_per_frame
            source = self._sources[frame] = self._padding.extend(self._upload.frame(frame))
            for k, picture in enumerate(self._channels.to_model(source)):
                self._canvases[first + k] = to_canvas(picture, self._plan, self._device)
        self._jobs_cut += len(jobs)
        return torch.stack([_cut(self._canvases[job.picture], self._plan, job, self._info.wraparound) for job in jobs])

    def add(self, job: Job, tile: Tensor, computed: Event, ill: bool) -> Complete | None:
        """Take the upscaled tile [C', h*s, w*s] of `job`, there when `computed` is past; its frame when that is
        complete, else None.

        `ill`: something is wrong with it that can only be mended in the whole picture. Raises `BrokenOutputError`
        when the frame turns out to be no picture.
        """
        frame, k = self.frame_of(job), job.picture % self._channels.pictures_per_frame
        if ill:
            self._ill.add(frame)
        with self._download.leaving(computed, tile, self._sources[frame]):
            rows = self._blender.add(job.row, job.column, tile)
            if rows is None:
                return None
            self._put(frame, k, *rows)
            if job.row + 1 < len(self._plan.rows.origins):
                return None
            del self._canvases[job.picture]
            if k + 1 < self._channels.pictures_per_frame:
                return None
            return self._complete(frame)

    def _put(self, frame: int, k: int, top: int, rows: Tensor) -> None:
        """Finished rows of a frame's `k`-th picture go to their place."""
        if frame not in self._targets:
            self._targets[frame] = self._target(frame)
        target = self._targets[frame][k, top : top + len(rows)]
        if self._on_device:
            target.copy_(rows if self.defer_clamp else rows.clamp(0, 1))
        else:
            self._download.write(target, rows, clamp=not self.defer_clamp)

    @property
    def _direct(self) -> bool:
        """The model's pictures are the output's frames: no detour over a scratch."""
        return self._channels.direct and not self._padding

    def _target(self, frame: int) -> Tensor:
        """Where a frame's pictures go, [pictures, H*s, W*s, model's channels]: the output itself where that is it."""
        if self._direct:
            return self._output[frame][None]
        height, width = (axis.size * self._info.scale for axis in (self._plan.rows, self._plan.columns))
        pictures, channels = self._channels.pictures_per_frame, self._channels.model_out
        device = self._device if self._on_device else self._output.device
        return torch.empty(pictures, height, width, channels, device=device)

    def _complete(self, frame: int) -> Complete:
        output, target, source = self._output[frame], self._targets.pop(frame), self._sources.pop(frame)
        if not self._direct:
            if not self._on_device:
                self._download.written().synchronize()
            made = self._padding.cut(self._channels.from_model(target, source), self._info.scale)
            if self._on_device:
                self._download.write(output, made, clamp=False)
            else:
                output.copy_(made)
        arrived = self._download.written()
        if not self.defer_clamp:
            return Complete(FrameVerdict(), arrived)
        arrived.synchronize()
        return Complete(self._look_after(frame, target, source), arrived)

    def _look_after(self, frame: int, target: Tensor, source: Tensor) -> FrameVerdict:
        """Bring a frame to 0..1, in its place in the output, and mend it where tiles of it are ill."""
        output = self._output[frame]
        if frame not in self._ill:
            output.clamp_(0, 1)
            return FrameVerdict()
        reference = self._channels.reference(self._image[frame])
        output = output[..., : reference.shape[-1]]  # a view: the channels that the model made
        verdict = heal(output, reference)
        if verdict.broken and self._channels.alpha == "model":  # its alpha is as broken as its colours were
            plain = replace(self._channels, alpha="lanczos").from_model(target, source)
            self._output[frame][..., -1] = self._padding.cut(plain, self._info.scale)[..., -1]
        if verdict.non_finite > _MOST_REPAIRED * output.numel():
            raise BrokenOutputError(
                f"{verdict.non_finite} of the {output.numel()} values that {self._info.name} gave for frame {frame} "
                "are NaN or infinite, in fp32 too; is the model's file intact?"
            )
        if verdict.constant:
            raise BrokenOutputError(
                f"{self._info.name} gave one and the same value for all of frame {frame}, in fp32 too; "
                "is the model's file intact?"
            )
        return verdict


def _cut(canvas: Tensor, plan: TilePlan, job: Job, wraparound: int) -> Tensor:
    for dim, axis, index in ((1, plan.rows, job.row), (2, plan.columns, job.column)):
        pieces = [canvas.narrow(dim, start, length) for start, length in _runs(axis, index, wraparound)]
        canvas = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim)
    return canvas


@lru_cache(maxsize=1024)
def _runs(axis: Axis, index: int, wraparound: int) -> tuple[tuple[int, int], ...]:
    """The places that tile `index` shows as (start, length) of what lies side by side: slices, unlike a list of places,
    need not be sent to the device."""
    shown = places(axis, index, wraparound)
    starts = [k for k, place in enumerate(shown) if k == 0 or place != shown[k - 1] + 1]
    return tuple((shown[k], end - k) for k, end in pairwise([*starts, len(shown)]))


def to_canvas(picture: Tensor, plan: TilePlan, device: torch.device) -> Tensor:
    """A picture [C, H, W] on `device` as float32, extended at the bottom and right where the plan's canvas is larger.

    As spandrel pads: mirrored as far as the picture reaches, then its last row or column repeated.
    """
    x = picture.to(device, torch.float32)[None]
    right, bottom = plan.columns.canvas - plan.columns.size, plan.rows.canvas - plan.rows.size
    mirrored = min(right, plan.columns.size - 1), min(bottom, plan.rows.size - 1)
    if any(mirrored):
        x = F.pad(x, (0, mirrored[0], 0, mirrored[1]), mode="reflect")
    if (right, bottom) != mirrored:
        x = F.pad(x, (0, right - mirrored[0], 0, bottom - mirrored[1]), mode="replicate")
    return x[0]
