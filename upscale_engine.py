"""The main path: check -> choose precision -> plan tiles -> stream them through the model -> assemble -> heal.

    image [B, H, W, C] --frame--> channels.to_model --canvas--> tiles [n, c, t, t] --forward--> tiles [n, c', ts, ts]
          --assembly--> rows --transfer--> output [B, H*s, W*s, C] --postprocess--> the same, healthy

Nothing of the caller's is changed: the picture is read, the model is copied (working.py).
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from spandrel import ImageModelDescriptor
from torch import Tensor, nn

from .assembly import FrameAssembler
from .channels import ChannelPlan, plan_channels
from .contracts import (
    BadImageError,
    ImageHealth,
    MemoryCost,
    ModelTraits,
    OutOfMemoryError,
    RunContext,
    TilePlan,
    UpscaleOptions,
    UpscaleReport,
    UpscaleResult,
)
from .memory import affordable_pixels, free_host_bytes, measure_cost, working_bytes
from .postprocess import FrameVerdict, heal
from .precision import PrecisionChooser
from .tiling import automatic_overlap, memory_saving_side, plan_tiles
from .traits import traits_of
from .transfer import RowWriter
from .weights import check_model
from .working import WorkingModel, WorkingModels

logger = logging.getLogger("cudaspeed")

# Beyond this many pixels a batch no longer fills the device better. A CPU is full with one small tile.
_BATCH_PIXELS = {"cuda": 1 << 20, "cpu": 1 << 14}


class Caches:
    """What is worth keeping between runs, all of it keyed by the caller's module and gone with it."""

    def __init__(self) -> None:
        self.working = WorkingModels()
        self.chooser = PrecisionChooser(self.working)
        self.costs: weakref.WeakKeyDictionary[nn.Module, dict[torch.dtype, MemoryCost]] = weakref.WeakKeyDictionary()


_SHARED = Caches()


def upscale(
    image: Tensor,
    model: ImageModelDescriptor,
    options: UpscaleOptions,
    context: RunContext,
    caches: Caches = _SHARED,
) -> UpscaleResult:
    """Upscale every frame of `image` [B, H, W, C] (C: 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA; float 0..1) by `model`.

    The result has the same C, on the context's output device and in its output type. An out-of-memory error makes the
    tiles smaller and goes on; frames already done are kept. Raises `BadImageError`, `BadModelError`, `BadOptionError`
    (each names the value, the limit and what to change), `OutOfMemoryError` when even the smallest tile does not fit,
    and whatever the context raises for an interrupt.
    """
    started = time.perf_counter()
    check_model(model)
    check_image(image)
    traits = traits_of(model)
    channels = plan_channels(image.shape[-1], traits)
    output = _new_output(image, traits, context)
    check_finite(image)
    try:
        choice = caches.chooser.choose(model, options.precision, options.autocast, context)
    except Exception as error:
        if context.is_out_of_memory(error):
            raise _no_room("a tiny test picture", traits, context) from error
        raise
    working = caches.working.get(model, choice.variant)
    costs = caches.costs.setdefault(model.model, {})
    dtype = choice.variant.memory_dtype
    if dtype not in costs:
        costs[dtype] = measure_cost(model.model, model._call_fn, traits, dtype)
    with torch.inference_mode():
        run = _Run(image, output, working, traits, channels, costs[dtype], options, context)
        verdicts = run.all_frames()
    health = ImageHealth(
        non_finite=sum(v.non_finite for v in verdicts),
        broken_frames=tuple(i for i, v in enumerate(verdicts) if v.broken),
        corrected_frames=tuple(i for i, v in enumerate(verdicts) if v.corrected),
    )
    warnings = [*([choice.warning] if choice.warning else []), *_health_warnings(health)]
    for warning in warnings:
        logger.warning(warning)

    plan, key = run.plan, run.last_key
    height, width = image.shape[1:3]
    peak = context.peak_bytes()
    report = UpscaleReport(
        model=traits.name,
        scale=traits.scale,
        frames=image.shape[0],
        input_size=(height, width),
        output_size=(output.shape[1], output.shape[2]),
        precision=choice.variant.precision,
        autocast=choice.variant.autocast,
        tile=(plan.rows.tile, plan.columns.tile),
        overlap=(plan.rows.overlap, plan.columns.overlap),
        tiles=run.total_tiles,
        batch=run.batch,
        compiled=working.compiled.is_compiled(key) if key else False,
        seconds=time.perf_counter() - started,
        peak_bytes=peak
        if peak is not None
        else costs[dtype].weights + working_bytes(costs[dtype], plan.tile_pixels * run.batch, context.device),
        health=health,
        warnings=tuple(warnings),
    )
    logger.info(
        "%dx%d -> %dx%d, %d frame(s), %s, %s, %d tile(s) of %dx%d, %.2f s",
        *(width, height, output.shape[2], output.shape[1], report.frames, traits.name, report.precision),
        *(report.tiles, plan.columns.tile, plan.rows.tile, report.seconds),
    )
    return UpscaleResult(output, report)


def _health_warnings(health: ImageHealth) -> list[str]:
    found = []
    if health.non_finite:
        found.append(f"{health.non_finite} values of the output were NaN or infinite and were filled from the input")
    if health.corrected_frames:
        found.append(
            f"the output's range was broken and was corrected by quantiles in frames {health.corrected_frames}"
        )
    left = tuple(sorted(set(health.broken_frames) - set(health.corrected_frames)))
    if left:
        found.append(
            f"the output of frames {left} is far out of range and unlike the input: is the model's file intact?"
        )
    return found


def check_image(image: Tensor) -> None:
    """Raise `BadImageError` unless `image` is [B, H, W, C] with pixels, 1 to 4 channels, and of a float type."""
    if image.ndim != 4:
        raise BadImageError(f"the image has shape {tuple(image.shape)}; [batch, height, width, channels] is needed")
    if image.numel() == 0:
        raise BadImageError(f"the image has no pixels (shape {tuple(image.shape)})")
    if not 1 <= image.shape[-1] <= 4:
        raise BadImageError(
            f"the image has {image.shape[-1]} channels (shape {tuple(image.shape)}); 1 to 4 are supported"
        )
    if not image.is_floating_point():
        raise BadImageError(
            f"the image is of type {image.dtype}; floats from 0 to 1 are needed, divide integers by their maximum"
        )


def check_finite(image: Tensor) -> None:
    """Raise `BadImageError` for a NaN or an infinity in `image` [B, H, W, C], naming the frame."""
    for index, frame in enumerate(image):
        low, high = torch.aminmax(frame)  # passes NaN on
        if not bool(torch.isfinite(low) & torch.isfinite(high)):
            bad = int((~torch.isfinite(frame)).sum())
            raise BadImageError(
                f"{bad} values of frame {index} are NaN or infinite; find the node before this one that makes them "
                "(a VAE decode in half precision is the usual one)"
            )


def _new_output(image: Tensor, traits: ModelTraits, context: RunContext) -> Tensor:
    """The result's memory, or an error before any work when there is not enough."""
    frames, height, width, channels = image.shape
    shape = (frames, height * traits.scale, width * traits.scale, channels)
    size = frames * shape[1] * shape[2] * channels * context.output_dtype.itemsize
    free = free_host_bytes() if context.output_device.type == "cpu" else context.free_bytes()
    if size > free:
        raise OutOfMemoryError(
            f"the result, {frames} frame(s) of {shape[2]}x{shape[1]}, takes {size / 2**30:.1f} GiB of memory and "
            f"{free / 2**30:.1f} GiB are free; upscale fewer frames at a time, or use a model of a smaller scale"
        )
    with torch.inference_mode(False):  # an ordinary tensor, which later nodes may change in place
        return torch.empty(shape, dtype=context.output_dtype, device=context.output_device)


def _no_room(what: str, traits: ModelTraits, context: RunContext) -> OutOfMemoryError:
    return OutOfMemoryError(
        f"{context.device} has too little memory even for {what} with {traits.name}; free memory (unload other "
        "models), use a smaller model, or lower the overlap if you set one"
    )


class _Job(NamedTuple):
    """One tile: `picture` counts through the group's pictures, `row` and `column` through the plan."""

    picture: int
    row: int
    column: int


class _Run:
    """One call's state: the plan, which memory errors may shrink, and how far the work is."""

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
    ) -> None:
        self._image, self._output, self._working = image, output, working
        self._traits, self._channels, self._options, self._context = traits, channels, options, context
        _, height, width, _ = image.shape
        context.make_resident(working, working_bytes(cost, height * width, context.device))
        held = image[0].numel() * 4
        if context.output_device.type == context.device.type:
            held += output.nbytes  # allocated, but perhaps not yet touched and so not yet missing from what is free
        level = "speed" if traits.sees_whole and options.level == "balanced" else options.level
        self._affordable = affordable_pixels(cost, max(0, context.free_bytes() - held), level, context.device)
        self.plan = self._make_plan(self._affordable)
        self.batch = self._batch_size()
        self.last_key = None
        self._seconds_per_tile = 0.0
        self._tiles_done = 0

    @property
    def total_tiles(self) -> int:
        return self._image.shape[0] * self._channels.pictures_per_frame * self.plan.count

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
            except Exception as error:
                if not self._context.is_out_of_memory(error):
                    raise
                self._shrink(error)
            if len(verdicts) < first + len(group):
                self._context.release_cached()  # here, where the failed forward's tensors are no longer referenced
            self._tiles_done = len(verdicts) * self._channels.pictures_per_frame * self.plan.count
        return verdicts

    def _group(self, frames: range) -> Iterator[FrameVerdict]:
        """Upscale some frames through common batches, yielding each frame's verdict when it is complete."""
        context, channels, plan = self._context, self._channels, self.plan
        per_frame = channels.pictures_per_frame
        direct = channels.picture == channels.model_in == channels.model_out
        canvases: dict[int, Tensor] = {}
        assembler = FrameAssembler(plan, self._traits.scale)
        writer = RowWriter(context.device, context.output_device)
        targets: dict[int, Tensor] = {}
        jobs = [
            _Job(picture, row, column)
            for picture in range(len(frames) * per_frame)
            for row in range(len(plan.rows.origins))
            for column in range(len(plan.columns.origins))
        ]
        for start in range(0, len(jobs), self.batch):
            context.raise_if_interrupted()
            now = jobs[start : start + self.batch]
            for index in sorted({job.picture // per_frame for job in now}):
                if index not in targets:
                    frame = self._image[frames[index]]
                    for k, picture in enumerate(channels.to_model(frame)):
                        canvases[index * per_frame + k] = to_canvas(picture, plan, context.device)
                    targets[index] = (
                        self._output[frames[index]][None] if direct else self._scratch(per_frame, channels.model_out)
                    )
            batch = torch.stack([self._cut(canvases[job.picture], job) for job in now])
            tiles = self._forward(batch, len(now))
            for job, tile in zip(now, tiles, strict=True):
                rows = assembler.add(job.row, job.column, tile)
                if rows is None:
                    continue
                top, finished = rows
                index, k = divmod(job.picture, per_frame)
                writer.write(targets[index][k, top : top + finished.shape[0]], finished)
                if job.row + 1 == len(plan.rows.origins):
                    del canvases[job.picture]
                    if k + 1 == per_frame:
                        writer.finish()
                        yield self._complete(frames[index], targets.pop(index), direct)
            self._tiles_done += len(now)
            context.progress(self._tiles_done, self.total_tiles)

    def _complete(self, frame: int, target: Tensor, direct: bool) -> FrameVerdict:
        output, source = self._output[frame], self._image[frame]
        if not direct:
            output.copy_(self._channels.from_model(target, source))
        return heal(output, source)

    def _scratch(self, pictures: int, channels: int) -> Tensor:
        _, height, width, _ = self._output.shape
        return torch.empty(pictures, height, width, channels, device=self._output.device)

    def _cut(self, canvas: Tensor, job: _Job) -> Tensor:
        y, x = self.plan.rows.origins[job.row], self.plan.columns.origins[job.column]
        return canvas[:, y : y + self.plan.rows.tile, x : x + self.plan.columns.tile]

    def _forward(self, batch: Tensor, tiles: int) -> Tensor:
        """The model over a tile batch, compiled where that pays."""
        working, start = self._working, time.perf_counter()
        if not self._options.compile:
            return working.forward(batch)
        key = working.compile_key(batch)
        seconds_ahead = self._seconds_per_tile * (self.total_tiles - self._tiles_done)
        forward = working.compiled.get(key, seconds_ahead)
        result = forward(batch)
        if forward is working.compiled.eager:
            seconds = time.perf_counter() - start
            working.compiled.note_eager(key, seconds)
            self._seconds_per_tile = seconds / tiles
        self.last_key = key
        return result

    def _make_plan(self, max_pixels: int) -> TilePlan:
        """Tiles within `max_pixels`, the user's tile and the level's; the whole picture in one where that fits."""
        options, traits = self._options, self._traits
        _, height, width, _ = self._image.shape
        max_side = options.tile or None
        if max_side is None and options.level == "memory":
            max_side = memory_saving_side(traits, options.overlap or automatic_overlap(traits))
        return plan_tiles(
            height, width, traits, max_pixels=max_pixels, max_side=max_side, overlap=options.overlap or None
        )

    def _batch_size(self) -> int:
        """Tiles per forward: what memory and the device's appetite allow, evened out over the group's tiles."""
        tile = self.plan.tile_pixels
        in_flight = min(self._options.batch_size, self._image.shape[0])
        total = in_flight * self._channels.pictures_per_frame * self.plan.count
        appetite = _BATCH_PIXELS.get(self._context.device.type, _BATCH_PIXELS["cuda"])
        if self._options.level == "memory":
            appetite = tile
        most = max(1, min(total, self._affordable // tile, appetite // tile))
        return -(-total // -(-total // most))

    def _shrink(self, error: BaseException) -> None:
        """Half the pixels per forward: fewer tiles a batch first, then smaller tiles. Raises when there is no less."""
        before, tile = self.batch, self.plan.tile_pixels
        self._affordable = max(1, tile * before // 2)
        if before == 1:
            plan = self._make_plan(self._affordable)
            if plan.tile_pixels >= tile:
                size = f"one tile of {self.plan.columns.tile}x{self.plan.rows.tile}"
                raise _no_room(size, self._traits, self._context) from error
            self.plan = plan
        self.batch = min(self._batch_size(), max(1, before // 2)) if before > 1 else 1
        logger.info(
            "out of memory: going on with %d tile(s) of %dx%d at a time",
            *(self.batch, self.plan.columns.tile, self.plan.rows.tile),
        )


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
