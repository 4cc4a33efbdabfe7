"""The main path: check -> choose precision -> plan tiles -> stream them through the model -> assemble -> heal.

    image [B, H, W, C] --intake--> channels.to_model --canvas--> tiles [n, c, t, t] --forward--> tiles [n, c', ts, ts]
          --health, repair--> the same, well --assembly--> rows --outlet--> output [B, H*s, W*s, C]
          --postprocess, where illness is left--> the same, healthy

Nothing of the caller's is changed: the picture is read, the model is copied (working.py).
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import torch
from spandrel import ImageModelDescriptor
from torch import Tensor

from .api.context import RunContext
from .api.errors import BrokenOutputError, CudaspeedError, ModelFailedError
from .api.options import UpscaleOptions
from .api.report import NOT_NEEDED, ImageHealth, UpscaleReport, UpscaleResult, health_warnings
from .images.channels import plan_channels
from .images.validate import check_finite, check_image
from .models.info import traits_of
from .models.loader import check_model
from .models.runner import Variant
from .pipeline.output import new_output
from .pipeline.run import Run, no_room
from .pipeline.session import Caches
from .postprocess import FrameVerdict

logger = logging.getLogger("cudaspeed")


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
    channels = plan_channels(image.shape[-1], traits, options.alpha_mode, image[..., -1])
    output = new_output(image, traits, context)
    check_finite(image)

    def attempt(variant: Variant) -> tuple[Run, list[FrameVerdict]]:
        ladder = caches.ladder(model, variant, traits, options, context)
        try:
            with torch.inference_mode():
                measured, paced = caches.measured(model, context), caches.paced(model, context)
                nature = caches.nature(model)
                run = Run(image, output, ladder, nature, traits, channels, options, context, measured, paced)
                return run, run.all_frames()
        finally:
            ladder.save()

    try:
        choice = caches.choose(model, options, context, image.shape[:3].numel())
        while True:
            try:
                run, verdicts = attempt(choice.variant)
                break
            except BrokenOutputError:
                raise
            except ModelFailedError as error:  # it may pass its try, small, and fail on the picture
                choice = caches.retreat(model, choice.variant, options, context, error)
    except Exception as error:  # torch has several types for it; what is not a lack of memory goes on up
        if context.is_out_of_memory(error) and not isinstance(error, CudaspeedError):
            raise no_room("the model and a tiny picture", traits, context) from error
        raise
    health = ImageHealth(
        repairs=tuple(run.repairer.repairs),
        given_up=run.ladder.given_up,
        non_finite=sum(v.non_finite for v in verdicts),
        wild=sum(v.wild for v in verdicts),
        broken_frames=tuple(i for i, v in enumerate(verdicts) if v.broken),
        corrected_frames=tuple(i for i, v in enumerate(verdicts) if v.corrected),
    )
    told = [warning for warning in (choice.warning, run.planner.overlap_warning()) if warning]
    warnings = [*told, *health_warnings(health)]
    for warning in warnings:
        logger.warning(warning)

    plan = run.planner.plan
    height, width = image.shape[1:3]
    peak = context.peak_bytes()
    report = UpscaleReport(
        model=traits.name,
        scale=traits.scale,
        frames=image.shape[0],
        input_size=(height, width),
        output_size=(output.shape[1], output.shape[2]),
        precision=run.ladder.now.variant.precision,
        autocast=run.ladder.now.variant.autocast,
        kernels=run.ladder.now.variant.kernels,
        tile=(plan.rows.tile, plan.columns.tile),
        overlap=(plan.rows.overlap, plan.columns.overlap),
        tiles=run.total_tiles,
        batch=run.planner.batch,
        compiled=run.compiled,
        compiling=run.compiling,
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


def warm_up(
    model: ImageModelDescriptor,
    size: tuple[int, int],
    options: UpscaleOptions,
    context: RunContext,
    caches: Caches = _SHARED,
) -> str:
    """Compile now, and wait for it, what upscaling pictures of `size` (height, width) with these options would use.

    Returns where compiling stands, in a few words: "compiled", "not needed: ...", or why not. No picture is computed,
    but one tile, which checks the result. Raises what `upscale` raises for the model and the options.
    """
    check_model(model)
    traits = traits_of(model)
    options = replace(options, compile=True, compile_mode="wait")
    ladder = caches.ladder(model, caches.choose(model, options, context).variant, traits, options, context)
    compiled = ladder.now.compiled
    if compiled is None:
        return f"{NOT_NEEDED}: {ladder.now.variant.kernels} kernels"
    image = torch.zeros(1, 1, 1, 1).expand(1, *size, traits.in_channels)  # has a size and takes no memory
    with torch.inference_mode():
        channels = plan_channels(traits.in_channels, traits)
        measured, paced = caches.measured(model, context), caches.paced(model, context)
        run = Run(image, image, ladder, caches.nature(model), traits, channels, options, context, measured, paced)
        plan = run.planner.plan
        tile = torch.rand(1, traits.in_channels, plan.rows.tile, plan.columns.tile, device=context.device)
        works = compiled.check(tile)
    compiled.save()
    return compiled.status(used=works)
