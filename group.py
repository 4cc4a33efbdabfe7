"""Some frames in work: cut into tiles for the model, put together from what becomes of them."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .assembly import FrameAssembler
from .borders import Border
from .channels import ChannelPlan
from .contracts import BrokenOutputError, ModelTraits, RunContext, TilePlan
from .postprocess import FrameVerdict, heal
from .tiling import places
from .transfer import RowWriter

# Holes are repaired; a picture that is mostly hole is none.
_MOST_REPAIRED = 0.5


class Job(NamedTuple):
    """One tile: `picture` counts through the group's pictures, `row` and `column` through the plan."""

    picture: int
    row: int
    column: int


class FrameGroup:
    """The frames `frames` of `image` [B, H, W, C] on their way into `output` [B, H*s, W*s, C], tiled by `plan`.

    Tiles are added in the order of `jobs`. What they are made of is clamped to 0..1 on its way; if `careful`, it comes
    to the output as it is, and frames that have ill tiles are looked after as a whole.
    """

    def __init__(
        self,
        image: Tensor,
        output: Tensor,
        frames: range,
        plan: TilePlan,
        traits: ModelTraits,
        channels: ChannelPlan,
        border: Border,
        context: RunContext,
        careful: bool,
    ) -> None:
        self._image, self._output, self._frames, self._plan = image, output, frames, plan
        self._traits, self._channels, self._border = traits, channels, border
        self._device, self.careful = context.device, careful
        self._canvases: dict[int, Tensor] = {}  # picture -> what its tiles are cut from
        self._targets: dict[int, Tensor] = {}  # frame -> where its pictures' rows go
        self._ill: set[int] = set()
        self._assembler = FrameAssembler(plan, traits.scale)
        self._writer = RowWriter(context.device, context.output_device)
        self.jobs = [
            Job(picture, row, column)
            for picture in range(len(frames) * channels.pictures_per_frame)
            for row in range(len(plan.rows.origins))
            for column in range(len(plan.columns.origins))
        ]

    def frame_of(self, job: Job) -> int:
        """The frame of the whole input that a tile belongs to."""
        return self._frames[job.picture // self._channels.pictures_per_frame]

    def cut(self, jobs: list[Job]) -> Tensor:
        """The tile batch [N, C, h, w] float32 on the device, for N jobs."""
        for frame in sorted({self.frame_of(job) for job in jobs} - self._targets.keys()):
            first = (frame - self._frames[0]) * self._channels.pictures_per_frame
            for k, picture in enumerate(self._channels.to_model(self._source(frame))):
                self._canvases[first + k] = to_canvas(picture, self._plan, self._device)
            self._targets[frame] = self._target(frame)
        return torch.stack([_cut(self._canvases[job.picture], self._plan, job, self._traits.wraps) for job in jobs])

    def add(self, job: Job, tile: Tensor, ill: bool) -> FrameVerdict | None:
        """Take the upscaled tile [C', h*s, w*s] of `job`; the verdict on its frame when that is complete, else None.

        `ill`: something is wrong with it that can only be mended in the whole picture. Raises `BrokenOutputError`
        when the frame turns out to be no picture.
        """
        frame, k = self.frame_of(job), job.picture % self._channels.pictures_per_frame
        if ill:
            self._ill.add(frame)
        rows = self._assembler.add(job.row, job.column, tile)
        if rows is None:
            return None
        top, finished = rows
        self._writer.write(self._targets[frame][k, top : top + len(finished)], finished, clamp=not self.careful)
        if job.row + 1 < len(self._plan.rows.origins):
            return None
        del self._canvases[job.picture]
        if k + 1 < self._channels.pictures_per_frame:
            return None
        self._writer.finish()
        return self._complete(frame)

    def _source(self, frame: int) -> Tensor:
        """A frame as it is planned for, with its borders."""
        return self._border.extend(self._image[frame])

    @property
    def _direct(self) -> bool:
        """The model's pictures are the output's frames: no detour over a scratch."""
        return self._channels.direct and not self._border

    def _target(self, frame: int) -> Tensor:
        """Where a frame's pictures go, [pictures, H*s, W*s, model's channels]: the output itself where that is it."""
        if self._direct:
            return self._output[frame][None]
        height, width = (axis.size * self._traits.scale for axis in (self._plan.rows, self._plan.columns))
        pictures, channels = self._channels.pictures_per_frame, self._channels.model_out
        return torch.empty(pictures, height, width, channels, device=self._output.device)

    def _complete(self, frame: int) -> FrameVerdict:
        output, source, target = self._output[frame], self._image[frame], self._targets.pop(frame)
        if not self._direct:
            made = self._channels.from_model(target, self._source(frame))
            output.copy_(self._border.cut(made, self._traits.scale))
        if not self.careful:
            return FrameVerdict()
        if frame not in self._ill:
            output.clamp_(0, 1)
            return FrameVerdict()
        reference = self._channels.reference(source)
        output = output[..., : reference.shape[-1]]  # a view: the channels that the model made
        verdict = heal(output, reference)
        if verdict.broken and self._channels.alpha == "model":  # its alpha is as broken as its colours were
            plain = replace(self._channels, alpha="lanczos").from_model(target, self._source(frame))
            self._output[frame][..., -1] = self._border.cut(plain, self._traits.scale)[..., -1]
        if verdict.non_finite > _MOST_REPAIRED * output.numel():
            raise BrokenOutputError(
                f"{verdict.non_finite} of the {output.numel()} values that {self._traits.name} gave for frame {frame} "
                "are NaN or infinite, in fp32 too; is the model's file intact?"
            )
        if verdict.constant:
            raise BrokenOutputError(
                f"{self._traits.name} gave one and the same value for all of frame {frame}, in fp32 too; "
                "is the model's file intact?"
            )
        return verdict


def _cut(canvas: Tensor, plan: TilePlan, job: Job, wraps: int) -> Tensor:
    if wraps:
        rows, columns = (
            torch.tensor(places(axis, index, wraps), device=canvas.device)
            for axis, index in ((plan.rows, job.row), (plan.columns, job.column))
        )
        return canvas[:, rows][:, :, columns]
    y, x = plan.rows.origins[job.row], plan.columns.origins[job.column]
    return canvas[:, y : y + plan.rows.tile, x : x + plan.columns.tile]


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
