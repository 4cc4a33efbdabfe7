"""The main path: check -> choose precision -> plan tiles -> stream them through the model -> assemble -> heal.

    image [B, H, W, C] --upload--> channels.to_model --canvas--> tiles [n, c, t, t] --forward--> tiles [n, c', ts, ts]
          --health, repair--> the same, well --assembly--> rows --download--> output [B, H*s, W*s, C]
          --postprocess, where illness is left--> the same, healthy

Nothing of the caller's is changed: the picture is read, the model is copied (runner.py).
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
from .api.report import NOT_NEEDED, ImageHealth, UpscaleReport, UpscaleResult
from .images.channels import plan_channels
from .images.validate import validate_image
from .models.info import model_info
from .models.loader import check_model
from .models.runner import ExecutionMode
from .pipeline.output import allocate_output
from .pipeline.run import Run, no_room
from .pipeline.session import SessionCache
from .postprocess import FrameVerdict

logger = logging.getLogger("cudaspeed")


_SHARED = SessionCache()


def upscale(
    image: Tensor,
    model: ImageModelDescriptor,
    options: UpscaleOptions,
    context: RunContext,
    sessions: SessionCache = _SHARED,
) -> UpscaleResult:
    """Upscale every frame of `image` [B, H, W, C] (C: 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA; float 0..1) by `model`.

    The result has the same C, on the context's output device and in its output type. An out-of-memory error makes the
    tiles smaller and goes on; frames already done are kept. Raises `BadImageError`, `BadModelError`, `BadOptionError`
    (each names the value, the limit and what to change), `ModelFailedError` when the model fails on the picture in fp32
    too, `OutOfMemoryError` when even the smallest tile does not fit, and whatever the context raises for an interrupt.
    """
    started = time.perf_counter()
    check_model(model)
    validate_image(image)
    info = model_info(model)
    channels = plan_channels(image.shape[-1], info, options.alpha_mode, image[..., -1])
    output = allocate_output(image, info, context)

    def attempt(mode: ExecutionMode) -> tuple[Run, list[FrameVerdict]]:
        chain = sessions.chain(model, mode, info, options, context)
        try:
            with torch.inference_mode():
                measured, paced = sessions.measured(model, context), sessions.paced(model, context)
                observations = sessions.observations(model)
                run = Run(image, output, chain, observations, info, channels, options, context, measured, paced)
                return run, run.all_frames()
        finally:
            chain.save()

    try:
        choice = sessions.choose(model, options, context, image.shape[:3].numel())
        while True:
            try:
                run, verdicts = attempt(choice.mode)
                break
            except BrokenOutputError:
                raise
            except ModelFailedError as error:  # it may pass its try, small, and fail on the picture
                choice = sessions.retreat(model, choice.mode, options, context, error)
    except Exception as error:  # torch has several types for it; what is not a lack of memory goes on up
        if context.is_out_of_memory(error) and not isinstance(error, CudaspeedError):
            raise no_room("the model and a tiny picture", info, context) from error
        raise
    health = ImageHealth(
        repairs=tuple(run.retry.repairs),
        given_up=run.chain.given_up,
        non_finite=sum(v.non_finite for v in verdicts),
        wild=sum(v.wild for v in verdicts),
        broken_frames=tuple(i for i, v in enumerate(verdicts) if v.broken),
        corrected_frames=tuple(i for i, v in enumerate(verdicts) if v.corrected),
    )
    plan = run.scheduler.plan
    height, width = image.shape[1:3]
    peak = context.peak_bytes()
    report = UpscaleReport(
        model=info.name,
        scale=info.scale,
        frames=image.shape[0],
        input_size=(height, width),
        output_size=(output.shape[1], output.shape[2]),
        precision=run.chain.now.mode.precision,
        autocast=run.chain.now.mode.autocast,
        kernels=run.chain.now.mode.kernels,
        tile=(plan.rows.tile, plan.columns.tile),
        overlap=(plan.rows.overlap, plan.columns.overlap),
        tiles=run.total_tiles,
        batch=run.scheduler.batch,
        compiled=run.compiled,
        compiling=run.compiling,
        seconds=time.perf_counter() - started,
        peak_bytes=run.estimated_bytes if peak is None else peak,
        health=health,
        notes=tuple(note for note in (choice.warning, run.scheduler.overlap_warning()) if note),
    )
    for warning in report.warnings:
        logger.warning(warning)
    logger.info(
        "%dx%d -> %dx%d, %d frame(s), %s, %s, %d tile(s) of %dx%d, %.2f s",
        *(width, height, output.shape[2], output.shape[1], report.frames, info.name, report.precision),
        *(report.tiles, plan.columns.tile, plan.rows.tile, report.seconds),
    )
    return UpscaleResult(output, report)


def warm_up(
    model: ImageModelDescriptor,
    size: tuple[int, int],
    options: UpscaleOptions,
    context: RunContext,
    sessions: SessionCache = _SHARED,
) -> str:
    """Compile now, and wait for it, what upscaling pictures of `size` (height, width) with these options would use.

    Returns where compiling stands, in a few words: "compiled", "not needed: ...", or why not. No picture is computed,
    but one tile, which checks the result. Raises what `upscale` raises for the model and the options.
    """
    check_model(model)
    info = model_info(model)
    options = replace(options, compile=True, compile_mode="wait")
    chain = sessions.chain(model, sessions.choose(model, options, context).mode, info, options, context)
    compiled = chain.now.compiled
    if compiled is None:
        return f"{NOT_NEEDED}: {chain.now.mode.kernels} kernels"
    image = torch.zeros(1, 1, 1, 1).expand(1, *size, info.in_channels)  # has a size and takes no memory
    with torch.inference_mode():
        channels = plan_channels(info.in_channels, info)
        measured, paced = sessions.measured(model, context), sessions.paced(model, context)
        run = Run(image, image, chain, sessions.observations(model), info, channels, options, context, measured, paced)
        plan = run.scheduler.plan
        tile = torch.rand(1, info.in_channels, plan.rows.tile, plan.columns.tile, device=context.device)
        works = compiled.check(tile)
    compiled.save()
    return compiled.status(used=works)
