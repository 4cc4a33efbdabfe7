"""The ways one run can compute its model: where it stands, and the safer steps after that, down to eager fp32."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from spandrel import ImageModelDescriptor

from ..api.context import RunContext
from ..api.model_info import ModelInfo
from ..api.options import Level, UpscaleOptions
from ..backends.offer import weights_in
from ..compile_cache import CompiledForwards
from ..kernels.heartbeat import heard_by
from ..memory import MemoryCost, affordable_pixels, allowed_bytes, measure_cost, weights_bytes, working_bytes
from ..models.execution import DTYPES, ExecutionMode, Executor
from ..models.known_memory import rough_cost
from ..models.precision import fast_precisions
from ..models.result_check import checked
from ..models.runner import ModelRunner, call_of
from ..storage.peaks import Curve, curve_of
from .modes import ModeChooser, place_of
from .session_cache import SessionCache


class Step(NamedTuple):
    """One way to compute: the copy of the model, what a forward costs, and what is compiled of it, if it may be."""

    runner: ModelRunner
    cost: ForwardCost
    compiled: CompiledForwards | None

    @property
    def mode(self) -> ExecutionMode:
        return self.runner.mode


class ForwardCost:
    """What a forward takes in memory: at most `bound`, which is at hand, if one is known; how much exactly takes a
    while to find out, once. A bound that forwards were compared with is as good as that."""

    def __init__(
        self,
        bound: MemoryCost | None,
        measure: Callable[[], MemoryCost],
        measure_on_engine: Callable[[], MemoryCost] | None = None,
    ) -> None:
        self._bound, self._measure, self._measure_on_engine = bound, measure, measure_on_engine

    @functools.cached_property
    def exact(self) -> MemoryCost:
        return self._measure()

    @functools.cached_property
    def on_engine(self) -> MemoryCost:
        """The same where an engine computes it in memory of its own, where nothing was seen of any."""
        return self._measure_on_engine() if self._measure_on_engine else replace(self.exact, seen=())

    def enough_for(self, pixels: int, free_bytes: int, level: Level, device: torch.device) -> MemoryCost:
        """What is at hand, where a forward of so many pixels fits `level`'s share of what is free by that, or where it
        is as good as the exact cost; else that."""
        cost = self.at_hand(device)
        enough = cost.seen or affordable_pixels(cost, free_bytes, level, device) >= pixels
        return cost if enough else self.exact

    def at_hand(self, device: torch.device) -> MemoryCost:
        """The bound on a CPU, while nothing better is known; the exact cost on other devices, where other models give
        way for what it says."""
        bound = self.bound(device)
        return bound if bound and (bound.seen or "exact" not in vars(self)) else self.exact

    def bound(self, device: torch.device) -> MemoryCost | None:
        """By what the forwards there are measured, if there is such a bound; else by the exact cost."""
        return self._bound if device.type == "cpu" else None

    def is_allowed(self, pixels: int, device: torch.device) -> bool:
        """Whether a forward of so many pixels would fit what this process is allowed of main memory, where that is
        limited: beyond it nothing is told, but the process ended."""
        left = allowed_bytes(device)
        return left is None or working_bytes(self.exact, pixels, device) <= left


class Execution(NamedTuple):
    """How a batch was computed: by `executor`, which is of `step`, in `mode`."""

    step: Step
    executor: Executor
    mode: ExecutionMode


class StepMaker:
    """Makes the steps of one run's chain. It must not know the session: that would keep the caller's model alive."""

    def __init__(
        self,
        model: ImageModelDescriptor,
        info: ModelInfo,
        options: UpscaleOptions,
        context: RunContext,
        shared: SessionCache,
    ) -> None:
        self._model, self._info, self._options, self._context, self._shared = model, info, options, context, shared
        self._began, self._record = time.monotonic(), shared.record(model)

    def make(self, mode: ExecutionMode, shared: bool) -> Step:
        """The copy of the model in `mode`, what it costs, and what is compiled of it; a `shared` copy is kept for later
        runs. An interrupt ends the copying."""
        device, runners = self._context.device, self._shared.runners
        with heard_by(lambda _: self._context.raise_if_interrupted()):
            runner = runners.get(self._model, mode, device) if shared else ModelRunner(self._model, mode)
        # what a compiler makes is slower than our convolutions on a CPU; where all is in half precision, less exact too
        ours = mode.kernels == "winograd" and (self._info.convolutional or mode.only_products)
        compiles = self._options.compile and (not ours or bool(self._context.switches.engine))
        return Step(runner, self._cost(mode), self._compiled(runner) if compiles else None)

    def _compiled(self, runner: ModelRunner) -> CompiledForwards:
        return self._shared.compiles.forwards_of(runner, self._model, self._info, self._context, self._began)

    def _cost(self, mode: ExecutionMode) -> ForwardCost:
        """What a forward in `mode` costs."""
        device = self._context.device
        # a CPU that is slow at a half type computes in fp32, beside what it is given and gives
        widened = device.type == "cpu" and mode.precision not in fast_precisions(device)
        dtype = torch.float32 if widened else mode.memory_dtype
        measure, on_engine = functools.partial(self._measure, mode, dtype), None
        if self._context.switches.engine:
            on_engine = functools.partial(self._cost_on_engine, mode)
        return ForwardCost(self._bound(mode, dtype), measure, on_engine)

    def _measure(self, mode: ExecutionMode, dtype: torch.dtype) -> MemoryCost:
        place, profile = (
            f"{dtype}{', attention unfused' * (mode.kernels == 'plain')}",
            self._shared.profile(self._model, self._context),
        )
        known = profile.known.costs.get(place)
        if known is None:
            self._context.say("measuring how much memory the model takes")
            call = checked(call_of(self._model, mode), self._info)
            cost = measure_cost(self._model.model, call, self._info, dtype)
            self._context.say("")
            profile.keep(costs={place: (cost.weights, cost.per_pixel, cost.per_pixel_squared)})
            return replace(cost, seen=self._seen(mode, rough=False))
        weights, linear, square = known
        return MemoryCost(int(weights), linear, square, self._seen(mode, rough=False))

    def _cost_on_engine(self, mode: ExecutionMode) -> MemoryCost:
        """As the engine of the context computes it: by plain modules, in the type of the weights that it takes."""
        weights = weights_in(self._context.switches.engine, mode.precision)
        dtype, plain = DTYPES[weights], replace(mode, kernels="plain")
        cost = rough_cost(self._model, plain.kernels, dtype) or self._measure(plain, dtype)
        return replace(cost, weights=weights_bytes(self._model.model) * dtype.itemsize // 4, seen=())

    def _bound(self, mode: ExecutionMode, dtype: torch.dtype) -> MemoryCost | None:
        """What it costs at most, if that is known without measuring."""

        def find() -> MemoryCost | None:
            rough = "rough cost", mode.kernels, dtype
            bound = self._record.once(rough, lambda: rough_cost(self._model, mode.kernels, dtype))
            return bound and replace(bound, seen=self._seen(mode, rough=True))

        peaks = self._shared.profile(self._model, self._context).known.peaks
        depends_on = mode, dtype, self._options.compile, self._options.reproducible, self._context.device, peaks
        return self._record.while_the_same("bound", depends_on, find)

    def _seen(self, mode: ExecutionMode, rough: bool) -> Curve:
        """What was seen of that in earlier runs: eager, or of the two that there may be the larger."""
        if self._options.reproducible:
            return ()
        factors = self._shared.profile(self._model, self._context).known.factors
        backends = (mode.backend, "compiled") if self._options.compile else (mode.backend,)
        places = (place_of_peaks(replace(mode, backend=some), rough, self._context.device) for some in backends)
        return curve_of(factors[place] for place in places if place in factors)


def place_of_peaks(mode: ExecutionMode, rough: bool, device: torch.device) -> str:
    """Where in a profile it stands what forwards in `mode` take over what was estimated: by a bound (`rough`), or by
    the exact cost."""
    told = ", channels last" * mode.channels_last + ", by the widths of its layers" * rough
    return place_of(mode, device) + told


class FallbackChain:
    """Where a run stands (`now`), first on `mode`, and what it can fall back to. `modes` tells what is safer; `steps`
    makes steps, of the copy that all runs begin with or, for single tiles, of one of their own. `given_up` is the name
    of the mode that was left for a safer one because tiles came out faulty; None: none was. `revised` are the
    revisions of the profile that this made."""

    def __init__(self, mode: ExecutionMode, modes: ModeChooser, steps: StepMaker) -> None:
        self._modes, self._steps = modes, steps
        self.given_up: str | None = None
        self.revised: list[int] = []
        self._made: dict[ExecutionMode, Step] = {}
        self.restart(mode)

    def restart(self, mode: ExecutionMode) -> None:
        """Stand on `mode`, with all that is safer after it."""
        self.save()
        self._first, self._safer = mode, None
        self.now = self._steps.make(mode, shared=True)
        self._made = {mode: self.now}

    @property
    def safer(self) -> list[ExecutionMode]:
        """The modes after the run's, safest last; found out when they are first asked for."""
        if self._safer is None:
            self._safer = self._modes.safer(self._first)
        return self._safer

    def step(self, mode: ExecutionMode) -> Step:
        """A safer step, to compute single tiles in; made when it is first asked for, kept while the run lasts."""
        if mode not in self._made:
            self._made[mode] = self._steps.make(mode, shared=False)
        return self._made[mode]

    def fall_back(self, mode: ExecutionMode, for_good: bool) -> None:
        """Go on with `mode`, one of the safer ones, in this run and, `for_good`, in all later ones."""
        self.given_up = self.given_up or self.now.mode.name
        self._safer = self.safer[self.safer.index(mode) + 1 :]
        self.now = self.step(mode)
        if for_good:
            self.revised.append(self._modes.remember_fallback(self._first, self.now.runner))

    def leave_out_compiled(self) -> None:
        """Stand on the same mode, of which nothing is compiled."""
        if self.now.compiled:
            self.now = self._made[self.now.mode] = self.now._replace(compiled=None)

    def save(self) -> None:
        """Keep what was measured of the compiled forwards."""
        for step in self._made.values():
            if step.compiled:
                step.compiled.save()
