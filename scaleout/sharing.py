"""Whether a run is shared by several devices, and how: by frames where there are enough, else each picture in bands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..api.context import RunContext
from ..api.options import UpscaleOptions
from ..api.report import UpscaleReport
from ..api.resize import Resize
from ..pipeline.frame_io import FrameSink, FrameSource
from ..pipeline.known_model import KnownModel
from ..pipeline.monitor import Monitor
from ..pipeline.outcome import sizes_in_words
from ..tiling.fit import Pass
from ..tiling.plan import automatic_overlap
from .bands import Banding, BandShares, banding
from .devices import DeviceRun, Run
from .shares import FrameShares, known_alphas

ONE_DEVICE = "one device computed all of it, as the picture cannot be cut for several: "


@dataclass(frozen=True)
class Sharing:
    """A run for the devices of `contexts`, which are told `options`: some of the frames for each, or, where there is a
    `banding`, a part of each frame."""

    contexts: Sequence[RunContext]
    options: UpscaleOptions
    passes: Sequence[Pass]
    banding: Banding | None = None

    def bytes_beside(self, channels: int) -> int:
        """What it takes of main memory beside the result and what each device takes."""
        return self.banding.bytes_beside(channels) if self.banding else 0

    def into(self, ways: tuple[FrameSource, FrameSink], run: Run, monitor: Monitor) -> UpscaleReport:
        """Upscale all frames of a source into a sink. Raises what `DeviceRun.run` does."""
        source, count = ways[0], len(self.contexts)
        cut, batch = self.banding, self.options.batch_size
        shares = BandShares(ways, cut) if cut else FrameShares(ways, count, batch)
        report = DeviceRun(shares, self.contexts, run, monitor).run()
        tiles = report.tiles // report.frames * shares.still
        report = replace(
            report,
            frames=len(source),
            tiles=report.tiles + tiles,
            still_tiles=report.still_tiles + tiles,
            still_frames=report.still_frames + shares.still,
            input_size=self.passes[0].size,
            output_size=self.passes[-1].result,
            sizes=sizes_in_words(self.passes),
        )
        return _of_bands(report, cut) if cut else report


def _of_bands(report: UpscaleReport, cut: Banding) -> UpscaleReport:
    """With the bands as the tiles, where each was one piece, and with what they share."""
    rows = cut.plan.rows
    pieces = report.tiles == cut.plan.count * report.frames
    tile = (rows.tile, cut.plan.columns.tile) if pieces else report.tile
    return replace(report, tile=tile, overlap=(max(rows.overlap, report.overlap[0]), report.overlap[1]))


def sharing_of(
    source: FrameSource, known: KnownModel, passes: Sequence[Pass], options: UpscaleOptions, context: RunContext
) -> Sharing | str:
    """How all frames of `source`, of which there is one at least, are shared by the devices of `context` and its peers;
    a sentence where they cannot be, and "" where there is but one device."""
    contexts = (context, *context.peers)
    count, frames = len(contexts), len(source)
    if count == 1:
        return ""
    if frames >= count:
        return Sharing(contexts, options, passes)
    cut = why = None
    info = known.info_at_seams()
    if options.tiling_mode != "none":
        why = "its edges fit together"
    elif any(float(alpha.min()) <= 0 for alpha in known_alphas(source)):
        why = "colours spread under what is transparent"
    elif len(passes) > 1:
        why = "the model runs more than once"
    elif info.global_context:
        why = f"{info.name} looks at the whole of it"
    else:
        overlap = max(options.overlap, automatic_overlap(info))
        cut = banding(source.size, info, overlap, count, passes[0].resampling)
        why = f"{source.size[1]}x{source.size[0]} is too small for that"
    if cut:
        return Sharing(contexts, replace(options, resize=Resize()), passes, cut)
    return Sharing(contexts, options, passes) if frames > 1 else ONE_DEVICE + why
