"""CUDA graphs: a forward's kernels, recorded once for a shape and launched as one, where launching takes the time.

A recording reads its input and the weights where they lay when it was made, and writes where its own memory lies. So it
is made anew when a weight moved, and what is handed out is a copy. Recordings of one forward share a pool of memory:
they must run one after the other, in one stream, which is how a forward is used.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from ..api.errors import first_line
from ..api.model_info import Forward
from ..api.upstream import forget_capture, own_tensors
from ..kernels.heartbeat import heard_by
from ..kernels.numerics import OF_A_MODEL, compare
from ..kernels.timing import Timer, seconds_on_cuda
from .execution import ExecutionMode

logger = logging.getLogger("cudaspeed")

# Larger batches keep the device busy for longer than their launches take, and a recording holds memory for all of a
# forward beside what eager forwards use.
_MOST_PIXELS = 1 << 17
_SEEN = 8  # times that a shape must have come: to record and to measure costs about two such runs
_WORTH = 0.05  # the share of the time that a recording must save
_MOST_SHAPES = 4  # kept; one more lies beside them while it is tried
_BRIEFLY = partial(seconds_on_cuda, rounds=2, runs=3)


def pool_bytes(forward_bytes: int, pixels: int, forwards: int) -> int:
    """What recordings hold beside eager forwards, of a shape of so many `pixels` that comes in so many `forwards`, each
    of which takes `forward_bytes`, its ends included: as much once more, whose pool all shapes share. 0 where none is
    recorded."""
    return forward_bytes if pixels <= _MOST_PIXELS and forwards >= _SEEN else 0


class Recording(Protocol):
    """A recorded forward: `launch` computes `output` [N, C', sh, sw] from `input` [N, C, h, w] float32."""

    input: Tensor
    output: Tensor

    def launch(self) -> None: ...


class Recorder(Protocol):
    """What makes recordings."""

    def record(self, forward: Forward, example: Tensor) -> Recording:
        """Record `forward` for the shape of `example` [N, C, h, w]. Raises whatever stands against it."""
        ...

    def release(self) -> None:
        """Give back the memory of all recordings; none of them is launched again."""


class CudaGraphExecutor:
    """`forward`, replayed where that is clearly faster: the same results, which are the caller's to keep.

    `module` is what holds the weights, `mode` how it computes. A shape is recorded when it came often enough; where
    that fails or gains nothing, it stays eager. One call at a time."""

    def __init__(
        self,
        forward: Forward,
        module: nn.Module,
        mode: ExecutionMode,
        recorder: Recorder,
        seconds: Timer = _BRIEFLY,
    ) -> None:
        self._forward, self._recorder, self._seconds = forward, recorder, seconds
        self._eager, self._graph = mode, replace(mode, backend="CUDA graph")
        self.mode = mode  # how the last call was computed
        self._trusted = True
        self._slots = [
            (tensors, name)
            for part in module.modules()
            for tensors in own_tensors(part)
            for name, tensor in tensors.items()
            if tensor is not None
        ]
        self._places: list[int] = []
        self._recordings: OrderedDict[torch.Size, Recording] = OrderedDict()  # the least recently used first
        self._seen: Counter[torch.Size] = Counter()
        self._worth: dict[torch.Size, bool] = {}  # what was found out about shapes

    def accepts(self, shape: Sequence[int]) -> bool:
        """Every shape that the forward takes: what is not recorded is computed eagerly."""
        return True

    def distrust(self, reason: str) -> None:
        """Record nothing any more."""
        logger.warning("CUDA graphs are given up: %s", reason)
        self._trusted = False
        self.release()

    def __call__(self, tiles: Tensor) -> Tensor:
        """[N, C, h, w] float32 on the weights' device -> [N, C', sh, sw], as `forward` gives it."""
        recording = self._recording(tiles)
        self.mode = self._graph if recording else self._eager
        return replay(recording, tiles) if recording else self._forward(tiles)

    def release(self) -> None:
        """Give back the memory of the recordings; they are made anew when they are wanted."""
        self._recordings.clear()
        self._seen.clear()
        self._recorder.release()

    def _recording(self, x: Tensor) -> Recording | None:
        shape = x.shape
        if not self._trusted or x.numel() // shape[1] > _MOST_PIXELS or self._worth.get(shape) is False:
            return None
        weights = (tensors[name] for tensors, name in self._slots)
        places = [weight.data_ptr() for weight in weights if weight is not None]
        if places != self._places:
            if self._recordings:
                self.release()
            self._seen.clear()
            self._places = places
        if shape in self._recordings:
            self._recordings.move_to_end(shape)
            return self._recordings[shape]
        self._seen[shape] += 1
        return self._record(x) if self._seen[shape] >= _SEEN else None

    def _record(self, x: Tensor) -> Recording | None:
        """The forward recorded for x's shape, and kept, where it is right and worth it; the one used longest ago makes
        room for it only then."""
        recording, reason = self._attempt(x)
        if reason:
            logger.info("tiles of %dx%d are not recorded as CUDA graphs: %s", x.shape[3], x.shape[2], reason)
        self._worth[x.shape] = recording is not None
        if recording is None:
            return None
        if len(self._recordings) == _MOST_SHAPES:
            self._recordings.popitem(last=False)
        self._recordings[x.shape] = recording
        return recording

    def _attempt(self, x: Tensor) -> tuple[Recording | None, str | None]:
        """A recording that is right and worth it; else None, and what is wrong with it, if anything is."""
        try:
            with heard_by(None):  # an interrupt is no flaw of the recording, and there must be no sync in it
                recording = self._recorder.record(self._forward, x)
                reason = compare(replay(recording, x), self._forward(x), OF_A_MODEL[self.mode.precision])
                worth = reason is None and (self._worth.get(x.shape) or self._gains(recording, x))
        except Exception as error:  # forwards that wait for the device fail in all sorts of ways, or memory runs out
            return None, first_line(error)
        return recording if worth else None, reason

    def _gains(self, recording: Recording, x: Tensor) -> bool:
        with torch.cuda.device_of(x):  # the clock's is the current one
            eager, replayed = self._seconds(lambda: self._forward(x)), self._seconds(lambda: replay(recording, x))
        logger.debug("%s eager %.2e s, as a CUDA graph %.2e s", tuple(x.shape), eager, replayed)
        return replayed <= (1 - _WORTH) * eager


def replay(recording: Recording, x: Tensor) -> Tensor:
    """What `recording` makes of x, which has its shape; the caller's to keep."""
    recording.input.copy_(x)
    recording.launch()
    return recording.output.clone()


class CudaRecording:
    """A CUDA graph with its input and output."""

    def __init__(self, graph: torch.cuda.CUDAGraph, static_input: Tensor, static_output: Tensor) -> None:
        self._graph, self.input, self.output = graph, static_input, static_output
        self.launch: Callable[[], None] = graph.replay


class CudaRecorder:
    """Records on a stream of its own, since nothing can be on the default one, into a pool of memory of its own.

    Autocast needs no care: it keeps the casts of weights only where they take gradients, and until it ends, and here it
    begins and ends within a forward. Other threads may go on using CUDA meanwhile.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        self._pool = None

    def record(self, forward: Forward, example: Tensor) -> CudaRecording:
        with torch.cuda.device(self._device):
            self._stream = self._stream or torch.cuda.Stream(self._device)
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            here = torch.cuda.current_stream(self._device)
            with torch.inference_mode(False):  # or it could only be written to within inference mode
                static = torch.empty(example.shape, dtype=example.dtype, device=example.device).copy_(example)
            forward(static)  # what libraries do at a thread's first call cannot be recorded
            self._stream.wait_stream(here)
            with torch.cuda.stream(self._stream):
                graph, output = self._capture(forward, static)
            here.wait_stream(self._stream)
        return CudaRecording(graph, static, output)

    def _capture(self, forward: Forward, static: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """Not by `torch.cuda.graph`: where that fails to end, it leaves its stream current."""
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            output = forward(static)
            graph.capture_end()
        except BaseException:  # an interrupt, too, must leave no capture open; it goes on up
            self._abandon(graph)
            raise
        return graph, output

    def _abandon(self, graph: torch.cuda.CUDAGraph) -> None:
        """End a capture that failed, so that torch goes on as if it had never begun."""
        with suppress(RuntimeError):  # it says once more what failed
            graph.capture_end()
        if self._pool is not None:
            with suppress(AttributeError, RuntimeError):  # newer torch knows by itself that it is over
                forget_capture(self._pool)
        self._pool = None

    def release(self) -> None:
        self._pool = None  # a pool's memory is free when its last graph is gone
