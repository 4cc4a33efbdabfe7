"""The main path: check -> choose a mode -> schedule tiles -> stream them through the model -> put them together.

    image [B, H, W, C] --upload--> channels.to_model --canvas--> tiles [n, c, t, t] --executor--> tiles [n, c', ts, ts]
          --tile_check, retry--> the same, well --blend--> rows --download--> output [B, H*s, W*s, C]
          --postprocess, where faults are left--> the same, corrected

Where another size is wanted, rows are made that size before they leave, and where that is much larger than the model's,
all of it is done again with the result (pipeline/passes.py).

Nothing of the caller's is changed: the picture is read, the model is copied (models/runner.py).
"""

from __future__ import annotations

import atexit
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from spandrel import ImageModelDescriptor
from torch import Tensor

from .api.context import RunContext
from .api.memory_use import MemoryUse
from .api.options import UpscaleOptions
from .api.report import UpscaleReport, UpscaleResult
from .devices.precisions import without_autocast
from .images.channels import plan_channels
from .images.validate import validate_image
from .models.loader import check_model
from .pipeline.frame_io import FrameSink, FrameSource, TensorSink, TensorSource
from .pipeline.holdings import Holdings
from .pipeline.monitor import Monitor
from .pipeline.output import allocate_output
from .pipeline.parted import PartOfRun, SharedModes
from .pipeline.passes import PassRunner, Prepared
from .pipeline.scheduler import Limits
from .pipeline.session import Session
from .pipeline.session_cache import SessionCache
from .pipeline.workload import workload_of_one
from .scaleout.device_context import DeviceContext
from .scaleout.sharing import sharing_of
from .storage.fingerprint import unchanged
from .storage.heap import TRIMMER
from .tiling.fit import plan_passes, result_size

logger = logging.getLogger("cudaspeed")

_SESSIONS = SessionCache()
atexit.register(_SESSIONS.flush)
_USUAL_SIZE = 1024, 1024
_ROUNDS = 2  # of tuning: what layers take decides what is tried then


def upscale(
    image: Tensor,
    model: ImageModelDescriptor,
    options: UpscaleOptions,
    context: RunContext,
    sessions: SessionCache = _SESSIONS,
) -> UpscaleResult:
    """Upscale every frame of `image` [B, H, W, C] (C: 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA; float 0..1) by `model`.

    The result has the same C, and the size that the options ask for, else the model's, [B, H*scale, W*scale, C]; it is
    on the context's output device and in its output type; of no frames (B = 0) it is none,
    and no model runs. An out-of-memory error makes the tiles smaller and goes on; frames already done are kept. Raises
    `BadImageError`, `BadModelError`, `BadOptionError` (each names the value, the limit and what to change),
    `ModelFailedError` when the model fails on the picture in fp32 too, `OutOfMemoryError` when even the smallest tile
    does not fit, and whatever the context raises for an interrupt, which is asked for between the blocks of a forward.

    A run of more than a second says what it is at, and how long it will take where that is known. It may do so on
    another thread.
    """
    with _running(model, context, sessions) as monitor:
        result = _upscale(image, model, options, monitor, sessions)
        monitor.summary = result.report.summary
    return result


def upscale_frames(
    ways: tuple[FrameSource, FrameSink],
    model: ImageModelDescriptor,
    options: UpscaleOptions,
    context: RunContext,
    sessions: SessionCache = _SESSIONS,
) -> UpscaleReport:
    """Upscale all frames of a source, of which there is one at least, into a sink, as `upscale` does: frames from
    elsewhere than memory, a film's. The sink's are of the size that `result_size` tells. The report's warnings are told
    by the caller, who may have many runs for one film.

    Raises what `upscale` does, but for the picture, and what source and sink raise.
    """
    started = time.perf_counter()
    source, sink = ways
    with _running(model, context, sessions) as monitor:
        monitor.looked_at = False  # who has the frames shows them as they are meant to be seen
        report = _Work(source, model, options, monitor, sessions).into(sink)
        report = replace(report, seconds=time.perf_counter() - started)
        _log(report)
        monitor.summary = report.summary
    return report


def upscale_into(
    frames: Tensor, target: Tensor, model: ImageModelDescriptor, options: UpscaleOptions, context: RunContext
) -> UpscaleReport:
    """Upscale frames [F, H, W, C] into `target` [F, H*scale, W*scale, C], both of any floating type and wherever they
    lie, as `upscale_frames` does, and raise what it raises."""
    return upscale_frames((TensorSource(frames), TensorSink(target)), model, options, context)


@contextmanager
def _running(model: ImageModelDescriptor, context: RunContext, sessions: SessionCache) -> Iterator[Monitor]:
    """What surrounds a run. Raises `BadModelError`."""
    check_model(model)
    try:
        with (
            Monitor(context) as monitor,
            without_autocast(context.device),
            unchanged(model.model),
            sessions.running(model),
        ):
            yield monitor
    except BaseException:  # an interrupt, of whatever kind the host's is
        TRIMMER.soon()  # what was in work is let go of
        raise


def _upscale(
    image: Tensor, model: ImageModelDescriptor, options: UpscaleOptions, context: Monitor, sessions: SessionCache
) -> UpscaleResult:
    started = time.perf_counter()
    noted = validate_image(image)
    source = TensorSource(image)
    work = _Work(source, model, options, context, sessions)
    size = result_size(source.size, model.scale, options.resize)
    shape = (len(source), *size, source.channels)
    sink = TensorSink(allocate_output(shape, context, work.bytes_beside()))
    report = work.into(sink)
    notes = (*([noted] if noted else []), *report.notes)
    report = replace(report, seconds=time.perf_counter() - started, notes=notes)
    for warning in report.warnings:
        logger.warning(warning)
    _log(report)
    return UpscaleResult(sink.tensor, report)


class _Work:
    """What there is to do for the frames of `source`: all by the device of `monitor`, or by several that share it."""

    def __init__(
        self,
        source: FrameSource,
        model: ImageModelDescriptor,
        options: UpscaleOptions,
        monitor: Monitor,
        sessions: SessionCache,
    ) -> None:
        self._source, self._model, self._monitor, self._sessions = source, model, monitor, sessions
        self._runner = _runner(source, model, options, monitor, sessions)
        several = len(source) and monitor.peers
        self._sharing = sharing_of(source, self._runner.known, self._runner.passes, options, monitor) if several else ""
        self._modes = SharedModes()

    def bytes_beside(self) -> int:
        """What it takes of main memory beside the result and the forwards."""
        shared = 0 if isinstance(self._sharing, str) else self._sharing.bytes_beside(self._source.channels)
        return self._runner.bytes_beside() + shared

    def into(self, sink: FrameSink) -> UpscaleReport:
        """Do it, with the results into `sink`."""
        if isinstance(self._sharing, str):
            report = self._runner.into(sink)
            return replace(report, notes=(*report.notes, self._sharing)) if self._sharing else report
        self._sessions.begin()  # whoever lets go of what is kept waits for all devices
        try:
            return self._sharing.into((self._source, sink), self._on_one, self._monitor)
        finally:
            self._sessions.end()

    def _on_one(self, ways: tuple[FrameSource, FrameSink], context: DeviceContext) -> UpscaleReport:
        """A share of it, on the device of `context`, on its thread."""
        assert not isinstance(self._sharing, str)
        sessions, options = self._sessions.of_device(context.number), self._sharing.options
        part = PartOfRun(context.pixels_after, self._modes)
        with _running(self._model, context, sessions) as monitor:
            return _runner(ways[0], self._model, options, monitor, sessions, part).into(ways[1])


def _runner(
    source: FrameSource,
    model: ImageModelDescriptor,
    options: UpscaleOptions,
    context: Monitor,
    sessions: SessionCache,
    part: PartOfRun | None = None,
) -> PassRunner:
    """What takes the frames of `source` through as many passes as the size that is wanted takes."""

    def prepare(frames: FrameSource) -> Prepared:
        session = Session(model, options, context, sessions, part)
        with session.room.needed_for("a look at the picture's transparency"):
            alphas = frames.alphas()
            return Prepared(session, plan_channels(frames.channels, session.known.info, options.alpha_mode, alphas))

    passes = plan_passes(source.size, model.scale, options.resize, options.tiling_mode)
    return PassRunner(passes, source, prepare, context)


def _log(report: UpscaleReport) -> None:
    if report.passes > 1:
        logger.info("the model ran %d times: %s", report.passes, report.sizes)
    (height, width), (rows, columns), tile = report.input_size, report.output_size, report.tile
    logger.info(
        "%dx%d -> %dx%d, %d frame(s), %s, %s, %d tile(s) of %dx%d, %.2f s",
        *(width, height, columns, rows, report.frames, report.model, report.precision),
        *(report.tiles, tile[1], tile[0], report.seconds),
    )


def warm_up(
    model: ImageModelDescriptor,
    size: tuple[int, int],
    options: UpscaleOptions,
    context: RunContext,
    sessions: SessionCache = _SESSIONS,
) -> str:
    """Find out all there is to know of the model, whatever that takes, then compile, and wait for it, what upscaling
    RGB pictures of `size` (height, width) with these options would use.

    Returns where compiling stands, in a few words: "compiled", "not needed: ...", or why not. No picture is computed,
    but one tile, which checks the result. Raises what `upscale` raises for the model and the options.
    """
    with Monitor(context) as monitor, without_autocast(context.device):
        _tune(model, size, options, monitor, sessions)
        monitor.summary = _compile(model, size, replace(options, compile=True, compile_mode="wait"), monitor, sessions)
        return monitor.summary


def _compile(
    model: ImageModelDescriptor,
    size: tuple[int, int],
    options: UpscaleOptions,
    context: Monitor,
    sessions: SessionCache,
) -> str:
    session = Session(model, options, context, sessions)
    with session:
        session.start(math.prod(size), lambda: None)
        compiled = session.chain.now.compiled
        if compiled is None:
            return session.compiling(used=False)
        with torch.inference_mode(), session.room.needed_for("a tile of the plan"):
            schedule = session.schedules.schedule(workload_of_one(size, session.known.info, context), Limits())
            if session.chain.now.compiled is None:  # its weights come and go
                return session.compiling(used=False)
            tile = torch.rand(1, session.known.info.in_channels, *schedule.tile, device=context.device)
            works = compiled.check(tile)
    return compiled.status(used=works)


def tune(
    model: ImageModelDescriptor,
    size: tuple[int, int] | None,
    options: UpscaleOptions,
    context: RunContext,
    sessions: SessionCache = _SESSIONS,
) -> str:
    """Find out now, and wait for it, all that runs would find out by and by: which kernels and which precision suit the
    model here, how much its tiles must overlap, at which size it is fastest, for RGB pictures of up to `size` (height,
    width; None: 1024 both).

    Returns what was found, in a few words: "fp32 winograd, profile: rev 3". Raises what `upscale` raises for the model
    and the options.
    """
    with Monitor(context) as monitor, without_autocast(context.device):
        monitor.summary = _tune(model, size or _USUAL_SIZE, options, monitor, sessions)
        return monitor.summary


def _tune(
    model: ImageModelDescriptor,
    size: tuple[int, int],
    options: UpscaleOptions,
    context: Monitor,
    sessions: SessionCache,
) -> str:
    check_model(model)
    for _ in range(_ROUNDS):
        with Session(model, options, context, sessions, thorough=True) as session:
            session.start(math.prod(size), lambda: None)
            session.find_out_all(workload_of_one(size, session.known.info, context))
    with Session(model, options, context, sessions) as session:
        session.start(math.prod(size), lambda: None)
    sessions.flush()
    return f"{session.chain.now.mode.name}, profile: rev {session.revisions.numbers[-1]}"


def memory_of(
    model: ImageModelDescriptor,
    size: tuple[int, int],
    options: UpscaleOptions,
    context: RunContext,
    sessions: SessionCache = _SESSIONS,
) -> tuple[MemoryUse, str]:
    """What upscaling an RGB picture of `size` (height, width) would take of memory, and how it would be
    computed, in a few words: "fp32 winograd, 4 tiles of 512x512". Computes no picture, and leaves nothing that later
    runs decide by. Raises what `upscale` raises for the model and the options.
    """
    check_model(model)
    with Monitor(context) as monitor, without_autocast(context.device):
        session = Session(model, options, monitor, sessions)
        session.choose(0, lambda: None)
        workload = workload_of_one(size, session.known.info, monitor)
        schedule = session.schedules.schedule(workload, Limits())
        (height, width), tiles = schedule.tile, schedule.plan.count
        pieces = f"{tiles} tiles of {width}x{height}" if tiles > 1 else "one piece"
        return session.schedules.memory_use(schedule), f"{session.chain.now.mode.name}, {pieces}"


def let_go(tell: Callable[[Holdings], None], sessions: SessionCache = _SESSIONS) -> None:
    """Let go, in a moment, of all that is kept in memory for later runs (`SessionCache.let_go`), and `tell` how much of
    what there is now is gone then. A host that unloads models meanwhile is through with them by then."""
    before = sessions.holdings()

    def now() -> None:
        sessions.let_go(lambda: tell(before - sessions.holdings()))

    if before == Holdings() or not TRIMMER.soon(now):
        tell(Holdings())


def finish_learning(sessions: SessionCache = _SESSIONS) -> None:
    """Wait until all is found out, and written down, that the work so far repays (a twentieth of it): what a program
    does before it ends."""
    sessions.finish_learning()
