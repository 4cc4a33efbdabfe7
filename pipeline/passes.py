"""The passes of a run: the model over all frames, mostly once; again over what it made, where more is wanted.

    source --Pipeline--> relay --Pipeline--> sink

The last pass asks for its frames one by one, and the passes before it go on as far as that takes, by turns with it: of
the frames between two passes there are never more than are in work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import NamedTuple

import torch

from ..api.report import UpscaleReport
from ..devices.backends import has_own_memory
from ..images.channels import ChannelPlan
from ..models.trial import FORWARDS
from ..tiling.fit import Pass
from .frame_io import FrameSink, FrameSource
from .known_model import KnownModel
from .monitor import Monitor
from .outcome import joined_report, make_report, report_of_none
from .progress import PassShares, TileProgress
from .relay import RelaySink, RelaySource
from .run import Pipeline
from .session import Session
from .studies import SHARE_OF_RUN
from .workload import piece_of


class Prepared(NamedTuple):
    """What a pass goes by: a session, not started yet, and which channels go through the model."""

    session: Session
    channels: ChannelPlan


class PassRunner:
    """All frames of `source` through `passes`. `prepare` is asked for each of them, before it begins; for the first at
    once."""

    def __init__(
        self, passes: Sequence[Pass], source: FrameSource, prepare: Callable[[FrameSource], Prepared], monitor: Monitor
    ) -> None:
        self.passes, self._source, self._prepare, self._monitor = passes, source, prepare, monitor
        self._shares = PassShares([len(source) * math.prod(planned.size) for planned in passes])
        self._first = prepare(source)

    @property
    def known(self) -> KnownModel:
        """What is known of the model."""
        return self._first.session.known

    def bytes_beside(self) -> int:
        """What it takes of main memory beside the result and the forwards."""
        (session, channels), context = self._first, self._monitor
        in_work = min(len(self._source), session.options.batch_size + 1)  # frames between two passes
        values = sum(math.prod(planned.result) for planned in self.passes[:-1]) * self._source.channels * in_work
        between = values * context.output_dtype.itemsize * (context.output_device.type == "cpu")
        if has_own_memory(context.device) or not len(self._source):
            return between
        return between + max(sum(session.known.bytes_of_frame(planned.size, channels)) for planned in self.passes)

    def into(self, sink: FrameSink) -> UpscaleReport:
        """Upscale them into `sink`. Raises what `Pipeline.frames` does."""
        if not len(self._source):
            return report_of_none(self._first.session, self.passes[0].size, self.passes[-1].result)
        prepared, source = self._first, self._source
        begun: list[tuple[Session, Pipeline, Pass]] = []
        going: list[Iterator[int]] = []
        with ExitStack() as running:
            for number, planned in enumerate(self.passes):
                relay = self._relay(planned) if number + 1 < len(self.passes) else None
                pipeline = self._begin(number, prepared, (source, relay or sink), running)
                begun.append((prepared.session, pipeline, planned))
                going.append(running.enter_context(closing(pipeline.frames())))
                if relay:
                    source = RelaySource(relay, self._source, going[-1], self._first.session.clock)
                    prepared = self._prepare(source)
                    prepared.session.clock = source.clock
            with torch.inference_mode():
                for made in reversed(going):  # those before the last have no frames left, but something to learn
                    for _ in made:
                        pass
        reports = [make_report(session, done.outcome, len(source), planned) for session, done, planned in begun]
        return joined_report(reports, self.passes)

    def _relay(self, planned: Pass) -> RelaySink:
        """Where the results of a pass wait for the next, as they would be handed from one run to another."""
        shape = (*planned.result, self._source.channels)
        return RelaySink(shape, self._monitor.output_device, self._monitor.output_dtype)

    def _begin(
        self, number: int, prepared: Prepared, ways: tuple[FrameSource, FrameSink], running: ExitStack
    ) -> Pipeline:
        """Start the session of a pass, which lasts as long as `running`, and stand ready for its frames."""
        (session, channels), planned, source = prepared, self.passes[number], ways[0]
        running.enter_context(session)  # leaving it keeps what was learned
        pixels = len(source) * math.prod(planned.size)
        a_little = int(SHARE_OF_RUN * pixels / FORWARDS)  # so that a trial can be made within the run
        session.start(pixels, lambda: piece_of(source, channels, session.known.info, a_little))
        progress = TileProgress(self._monitor, self._shares, number)
        return Pipeline(session, channels, ways, planned.resampling, progress)
