"""Tiles through the model: frames in, batches of tiles, rows out, and what to do when a batch does not go through."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .assembly import FrameAssembler
from .channels import ChannelPlan
from .compile_cache import CompiledForwards
from .contracts import (
    Forward,
    MemoryCost,
    ModelFailedError,
    ModelTraits,
    OutOfMemoryError,
    RunContext,
    TilePlan,
    UpscaleOptions,
    first_line,
)
from .memory import working_bytes
from .planning import Planner
from .postprocess import FrameVerdict, heal
from .transfer import RowWriter
from .working import WorkingModel

logger = logging.getLogger("cudaspeed")

# Holes are repaired; a picture that is mostly hole is none.
_MOST_REPAIRED = 0.5
_WAYS_TO_COMPILE = 2  # for any size, and where that fails for one


def no_room(what: str, traits: ModelTraits, context: RunContext) -> OutOfMemoryError:
    """The error for a device that cannot hold even `what`."""
    return OutOfMemoryError(
        f"{context.device} has too little memory even for {what} with {traits.name}; free memory (unload other "
        "models), use a smaller model, or lower the overlap if you set one"
    )


class _ForwardFailedError(ModelFailedError):
    """The model raised something on a tile batch; the cause says what."""


class _Replanned(Exception):  # noqa: N818  # no error: the group starts again with what was compiled meanwhile
    """A cheaper plan was adopted in the middle of a group."""


class _Job(NamedTuple):
    """One tile: `picture` counts through the group's pictures, `row` and `column` through the plan."""

    picture: int
    row: int
    column: int


class Run:
    """One call's state: the plan, and how far the work is."""

    def __init__(
        self,
        image: Tensor,
        output: Tensor,
        working: WorkingModel,
        traits: ModelTraits,
        channels: ChannelPlan,
        cost: MemoryCost,
        options: UpscaleOptions,
        context: RunContext,
        compiled: CompiledForwards | None,
    ) -> None:
        self._image, self._output, self._working = image, output, working
        self._traits, self._channels, self._options, self._context = traits, channels, options, context
        self._cost, self.compiles = cost, compiled
        frames, height, width, _ = image.shape
        context.make_resident(working, working_bytes(cost, height * width, context.device))
        held = image[0].numel() * 4
        if context.output_device.type == context.device.type:
            held += output.nbytes  # allocated, but perhaps not yet touched and so not yet missing from what is free
        self.planner = Planner(
            (height, width),
            min(options.batch_size, frames) * channels.pictures_per_frame,
            traits,
            options,
            cost,
            max(0, context.free_bytes() - held),
            context.device,
            compiled.ready() if compiled else {},
        )
        self._tiles_done = 0
        self.compiled = False
        if compiled and options.compile_mode == "wait":
            self._compile_first(compiled)

    @property
    def estimated_bytes(self) -> int:
        pixels = self.planner.plan.tile_pixels * self.planner.batch
        return self._cost.weights + working_bytes(self._cost, pixels, self._context.device)

    @property
    def total_tiles(self) -> int:
        return self._image.shape[0] * self._channels.pictures_per_frame * self.planner.plan.count

    def all_frames(self) -> list[FrameVerdict]:
        """Upscale frame group by frame group; a memory error shrinks the plan and repeats only the group's rest."""
        verdicts: list[FrameVerdict] = []
        frames = self._image.shape[0]
        while len(verdicts) < frames:
            first = len(verdicts)
            group = range(first, min(first + self._options.batch_size, frames))
            try:
                for verdict in self._group(group):
                    verdicts.append(verdict)
            except _Replanned:
                logger.debug("going on with tiles of %d pixels, compiled", self.planner.plan.tile_pixels)
            except _ForwardFailedError as error:
                if self.planner.batch == 1:
                    raise
                # some architectures route by the picture's content, and only one picture at a time
                logger.info("%s: going on one by one", error)
                self.planner.one_by_one()
            except Exception as error:  # torch has several types for it; what is not a lack of memory goes on up
                if not self._context.is_out_of_memory(error):
                    raise
                tile = f"one tile of {self.planner.plan.columns.tile}x{self.planner.plan.rows.tile}"
                if not self.planner.shrink():
                    raise no_room(tile, self._traits, self._context) from error
                logger.info("out of memory with %s, %d at a time: going on with less", tile, self.planner.batch)
            if len(verdicts) < first + len(group):
                self._context.release_cached()  # here, where the failed forward's tensors are no longer referenced
            self._tiles_done = len(verdicts) * self._channels.pictures_per_frame * self.planner.plan.count
        return verdicts

    def _group(self, frames: range) -> Iterator[FrameVerdict]:
        """Upscale some frames through common batches, yielding each frame's verdict when it is complete."""
        if self.compiles:
            self.planner.adopt(self.compiles.ready())
        context, channels, plan = self._context, self._channels, self.planner.plan
        per_frame = channels.pictures_per_frame
        last_row = len(plan.rows.origins) - 1
        canvases: dict[int, Tensor] = {}  # picture -> what its tiles are cut from
        targets: dict[int, Tensor] = {}  # frame's place in the group -> where its pictures' rows go
        assembler = FrameAssembler(plan, self._traits.scale)
        writer = RowWriter(context.device, context.output_device)
        jobs = [
            _Job(picture, row, column)
            for picture in range(len(frames) * per_frame)
            for row in range(len(plan.rows.origins))
            for column in range(len(plan.columns.origins))
        ]
        start = 0
        while start < len(jobs):
            context.raise_if_interrupted()
            began = time.perf_counter()
            now = jobs[start : start + self.planner.batch]
            for index in sorted({job.picture // per_frame for job in now} - targets.keys()):
                for k, picture in enumerate(channels.to_model(self._image[frames[index]])):
                    canvases[index * per_frame + k] = to_canvas(picture, plan, context.device)
                targets[index] = self._target(frames[index])
            batch = torch.stack([_cut(canvases[job.picture], plan, job) for job in now])
            forward = (self.compiles and self.compiles.take(batch)) or self._working.forward
            for job, tile in zip(now, self._run_forward(forward, batch), strict=True):
                rows = assembler.add(job.row, job.column, tile)
                if rows is None:
                    continue
                top, finished = rows
                index, k = divmod(job.picture, per_frame)
                writer.write(targets[index][k, top : top + finished.shape[0]], finished)
                if job.row == last_row:
                    del canvases[job.picture]
                    if k + 1 == per_frame:
                        writer.finish()
                        yield self._complete(frames[index], targets.pop(index))
            self._tiles_done += len(now)
            start += len(now)  # the next batch may have another size: compiled code may take fewer tiles at once
            context.progress(self._tiles_done, self.total_tiles)
            if self.compiles:
                seconds, left = time.perf_counter() - began, 1 - start / len(jobs)
                self._think_of_compiling(self.compiles, forward, batch, seconds, left)

    @property
    def _direct(self) -> bool:
        """The model's pictures are the output's frames: no detour over a scratch."""
        return self._channels.picture == self._channels.model_in == self._channels.model_out

    def _target(self, frame: int) -> Tensor:
        """Where a frame's pictures go, [pictures, H*s, W*s, model's channels]: the output itself where that is it."""
        if self._direct:
            return self._output[frame][None]
        _, height, width, _ = self._output.shape
        pictures, channels = self._channels.pictures_per_frame, self._channels.model_out
        return torch.empty(pictures, height, width, channels, device=self._output.device)

    def _complete(self, frame: int, target: Tensor) -> FrameVerdict:
        output, source = self._output[frame], self._image[frame]
        if not self._direct:
            output.copy_(self._channels.from_model(target, source))
        verdict = heal(output, source)
        if verdict.non_finite > _MOST_REPAIRED * output.numel():
            raise ModelFailedError(
                f"{verdict.non_finite} of the {output.numel()} values that {self._traits.name} gave for frame {frame} "
                "are NaN or infinite; is the model's file intact? If only half precision does it, choose fp32"
            )
        return verdict

    def _compile_first(self, compiles: CompiledForwards) -> None:
        """Wait for what would make this run cheapest, and plan for it."""
        compiles.wait(self._context)
        self.planner.adopt(compiles.ready())
        for _ in range(_WAYS_TO_COMPILE):
            shapes = self.planner.worth_compiling(compiles.possible(self.planner.tile_to_compile()))
            if shapes:
                compiles.start(shapes)
                compiles.wait(self._context)  # also where another process was quicker to start it
            self.planner.adopt(compiles.ready())

    def _think_of_compiling(
        self, compiles: CompiledForwards, forward: Forward, batch: Tensor, seconds: float, share_left: float
    ) -> None:
        """After each batch: learn from it, start a compile that pays, change to a plan for what got ready.

        Raises `_Replanned` when doing the whole group so is cheaper than the share of it that is left.
        """
        compiles.note(forward, len(batch) * batch[0, 0].numel(), seconds)
        if forward is not self._working.forward:
            self.compiled = self.compiled or compiles.works(forward)
            return
        ready = compiles.ready()
        if ready and self.planner.adopt(ready, share_left):  # planning is work: not after every tile for nothing
            self._context.say("")
            raise _Replanned
        pixels_ahead = (self.total_tiles - self._tiles_done) * self.planner.plan.tile_pixels
        if self._options.compile_mode == "background" or compiles.pays(pixels_ahead):
            shapes = self.planner.worth_compiling(compiles.possible(self.planner.tile_to_compile()))
            if shapes and compiles.start(shapes):
                self._context.say(f"compiling for {shapes} in the background, eager meanwhile")

    def _run_forward(self, forward: Forward, batch: Tensor) -> Tensor:
        """`forward(batch)`; its own failures, and only they, become `_ForwardFailedError`: an interrupt is none."""
        try:
            return forward(batch)
        except Exception as error:  # architectures fail in all sorts of ways
            if self._context.is_out_of_memory(error):
                raise
            raise _ForwardFailedError(
                f"{self._traits.name} fails on {len(batch)} tile(s) of {batch.shape[3]}x{batch.shape[2]} "
                f"({first_line(error)}); choose another tile size, or another model"
            ) from error


def _cut(canvas: Tensor, plan: TilePlan, job: _Job) -> Tensor:
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
