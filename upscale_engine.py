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
from .compile_cache import CompileKey
from .contracts import (
    BadImageError,
    CudaspeedError,
    Forward,
    ImageHealth,
    MemoryCost,
    ModelFailedError,
    ModelTraits,
    OutOfMemoryError,
    RunContext,
    TilePlan,
    UpscaleOptions,
    UpscaleReport,
    UpscaleResult,
)
from .memory import free_host_bytes, measure_cost, working_bytes
from .planning import Planner
from .postprocess import FrameVerdict, heal
from .precision import PrecisionChooser
from .traits import traits_of
from .transfer import RowWriter
from .weights import check_model
from .working import Variant, WorkingModel, WorkingModels

logger = logging.getLogger("cudaspeed")


# Far above what high dynamic range makes of 0..1; 0..255 looks like this.
_BRIGHTEST = 16.0
# Holes are repaired; a picture that is mostly hole is none.
_MOST_REPAIRED = 0.5


class Caches:
    """What is worth keeping between runs, all of it keyed by the caller's module and gone with it."""

    def __init__(self) -> None:
        self.working = WorkingModels()
        self.chooser = PrecisionChooser(self.working)
        self._costs: weakref.WeakKeyDictionary[nn.Module, dict[torch.dtype, MemoryCost]] = weakref.WeakKeyDictionary()

    def cost(self, model: ImageModelDescriptor, traits: ModelTraits, variant: Variant) -> MemoryCost:
        """What a forward in `variant` costs, measured once."""
        known, dtype = self._costs.setdefault(model.model, {}), variant.memory_dtype
        if dtype not in known:
            known[dtype] = measure_cost(model.model, model._call_fn, traits, dtype)
        return known[dtype]


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
    (each names the value, the limit and what to change), `ModelFailedError` when the model fails on the picture in fp32
    too, `OutOfMemoryError` when even the smallest tile does not fit, and whatever the context raises for an interrupt.
    """
    started = time.perf_counter()
    check_model(model)
    check_image(image)
    traits = traits_of(model)
    channels = plan_channels(image.shape[-1], traits)
    output = _new_output(image, traits, context)
    check_finite(image)
    asked = (model, options.precision, options.autocast, context)

    def attempt(variant: Variant) -> tuple[_Run, list[FrameVerdict]]:
        working, cost = caches.working.get(model, variant), caches.cost(model, traits, variant)
        with torch.inference_mode():
            run = _Run(image, output, working, traits, channels, cost, options, context)
            return run, run.all_frames()

    try:
        choice = caches.chooser.choose(*asked)
        try:
            run, verdicts = attempt(choice.variant)
        except ModelFailedError as error:  # a model may pass its try in half precision and fail on the picture
            if choice.variant.precision == "fp32":
                raise
            choice = caches.chooser.retreat(*asked, error)
            run, verdicts = attempt(choice.variant)
    except Exception as error:
        if context.is_out_of_memory(error) and not isinstance(error, CudaspeedError):
            raise _no_room("the model and a tiny picture", traits, context) from error
        raise
    health = ImageHealth(
        non_finite=sum(v.non_finite for v in verdicts),
        broken_frames=tuple(i for i, v in enumerate(verdicts) if v.broken),
        corrected_frames=tuple(i for i, v in enumerate(verdicts) if v.corrected),
    )
    told = [warning for warning in (choice.warning, run.overlap_warning) if warning]
    warnings = [*told, *_health_warnings(health)]
    for warning in warnings:
        logger.warning(warning)

    plan = run.plan
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
        compiled=run.compiled,
        seconds=time.perf_counter() - started,
        peak_bytes=run.estimated_bytes if peak is None else peak,
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
    if not isinstance(image, Tensor):
        raise BadImageError(f"the image is a {type(image).__name__}; a torch tensor of floats from 0 to 1 is needed")
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
    """Raise `BadImageError` for a NaN, an infinity or a 0..255 picture in `image` [B, H, W, C], naming the frame."""
    for index, frame in enumerate(image):
        low, high = torch.aminmax(frame)  # passes NaN on
        if not bool(torch.isfinite(low) & torch.isfinite(high)):
            bad = int((~torch.isfinite(frame)).sum())
            raise BadImageError(
                f"{bad} values of frame {index} are NaN or infinite; find the node before this one that makes them "
                "(a VAE decode in half precision is the usual one)"
            )
        if float(high) > _BRIGHTEST:
            raise BadImageError(
                f"frame {index} has values up to {float(high):g}; the range is 0 to 1: divide 8-bit values by 255"
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


class _ForwardFailedError(ModelFailedError):
    """The model raised something on a tile batch; the cause says what."""


class _Job(NamedTuple):
    """One tile: `picture` counts through the group's pictures, `row` and `column` through the plan."""

    picture: int
    row: int
    column: int


class _Run:
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
    ) -> None:
        self._image, self._output, self._working = image, output, working
        self._traits, self._channels, self._options, self._context = traits, channels, options, context
        self._cost = cost
        frames, height, width, _ = image.shape
        context.make_resident(working, working_bytes(cost, height * width, context.device))
        held = image[0].numel() * 4
        if context.output_device.type == context.device.type:
            held += output.nbytes  # allocated, but perhaps not yet touched and so not yet missing from what is free
        self._planner = Planner(
            (height, width),
            min(options.batch_size, frames) * channels.pictures_per_frame,
            traits,
            options,
            cost,
            max(0, context.free_bytes() - held),
            context.device,
        )
        self._tiles_done = 0
        self._seconds_per_tile = 0.0
        self._keys: set[CompileKey] = set()

    @property
    def plan(self) -> TilePlan:
        return self._planner.plan

    @property
    def batch(self) -> int:
        return self._planner.batch

    @property
    def overlap_warning(self) -> str | None:
        return self._planner.overlap_warning()

    @property
    def compiled(self) -> bool:
        return self._options.compile and any(map(self._working.compiled.is_compiled, self._keys))

    @property
    def estimated_bytes(self) -> int:
        pixels = self.plan.tile_pixels * self.batch
        return self._cost.weights + working_bytes(self._cost, pixels, self._context.device)

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
            except _ForwardFailedError as error:
                if self.batch == 1:
                    raise
                # some architectures route by the picture's content, and only one picture at a time
                logger.info("%s: going on one by one", error)
                self._planner.one_by_one()
            except Exception as error:
                if not self._context.is_out_of_memory(error):
                    raise
                tile = f"one tile of {self.plan.columns.tile}x{self.plan.rows.tile}"
                if not self._planner.shrink():
                    raise _no_room(tile, self._traits, self._context) from error
                logger.info("out of memory with %s, %d at a time: going on with less", tile, self.batch)
            if len(verdicts) < first + len(group):
                self._context.release_cached()  # here, where the failed forward's tensors are no longer referenced
            self._tiles_done = len(verdicts) * self._channels.pictures_per_frame * self.plan.count
        return verdicts

    def _group(self, frames: range) -> Iterator[FrameVerdict]:
        """Upscale some frames through common batches, yielding each frame's verdict when it is complete."""
        context, channels, plan = self._context, self._channels, self.plan
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
        for start in range(0, len(jobs), self.batch):
            context.raise_if_interrupted()
            began = time.perf_counter()
            now = jobs[start : start + self.batch]
            for index in sorted({job.picture // per_frame for job in now} - targets.keys()):
                for k, picture in enumerate(channels.to_model(self._image[frames[index]])):
                    canvases[index * per_frame + k] = to_canvas(picture, plan, context.device)
                targets[index] = self._target(frames[index])
            batch = torch.stack([_cut(canvases[job.picture], plan, job) for job in now])
            forward, key = self._pick_forward(batch)
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
            self._note_time(time.perf_counter() - began, len(now), key if forward is self._working.forward else None)
            self._tiles_done += len(now)
            context.progress(self._tiles_done, self.total_tiles)

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

    def _pick_forward(self, batch: Tensor) -> tuple[Forward, CompileKey]:
        """The compiled forward where there is one or a compile pays, else the eager one."""
        key = self._working.compile_key(batch)
        self._keys.add(key)
        if (
            not self._options.compile or len(batch) < self.batch
        ):  # a last, smaller batch is not worth a shape of its own
            return self._working.forward, key
        seconds_ahead = self._seconds_per_tile * (self.total_tiles - self._tiles_done)
        return self._working.compiled.get(key, seconds_ahead), key

    def _run_forward(self, forward: Forward, batch: Tensor) -> Tensor:
        """`forward(batch)`; its own failures, and only they, become `_ForwardFailedError`: an interrupt is none."""
        try:
            return forward(batch)
        except Exception as error:  # architectures fail in all sorts of ways
            if self._context.is_out_of_memory(error):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise _ForwardFailedError(
                f"{self._traits.name} fails on {len(batch)} tile(s) of {batch.shape[3]}x{batch.shape[2]} ({reason}); "
                "choose another tile size, or another model"
            ) from error

    def _note_time(self, seconds: float, tiles: int, eager_key: CompileKey | None) -> None:
        if eager_key is not None:
            self._working.compiled.note_eager(eager_key, seconds)
            self._seconds_per_tile = seconds / tiles


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
