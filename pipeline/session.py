"""What is worth keeping between runs: copies of models, choices, measurements, compiled forwards."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from spandrel import ImageModelDescriptor
from torch import nn

from ..api.context import RunContext
from ..api.errors import ModelFailedError, first_line
from ..api.model_info import ModelInfo
from ..api.options import UpscaleOptions
from ..compile_cache import CompileCache
from ..kernels.timing import reproduced
from ..memory import MemoryCost, measure_cost
from ..models.autotune import code_behind, fastest, least_pixels, mode_candidates
from ..models.precision import Choice, PrecisionChooser
from ..models.receptive_field import with_receptive_field
from ..models.runner import ExecutionMode, ModelRunner, RunnerCache, call_of, versions_of
from ..models.throughput import Paced, Throughput, measure_throughput, rounded
from ..storage.fingerprint import describe_environment
from ..storage.profiles import Profiles, profiles_folder
from .fallback import FallbackChain, Step
from .retry import ModelObservations

_ALIKE = 0.25  # batches of real work, which take long, and among other things
_MOST_TRIES = 3  # in one session, to find out what is the fastest on a machine that is busy


@dataclass
class _Session:
    """What was found out of a model's copies in this session, by place, and is found out anew in the next one: the
    `fastest` that each try on a busy machine came to, the newest last; the seconds a megapixel that runs have `seen`,
    by a forward's pixels (rounded); the most pixels of work for which its throughput was `tried` to be measured; the
    `pixels` of all runs."""

    pixels: int = 0
    fastest: dict[str, list[str]] = field(default_factory=dict)
    seen: dict[str, dict[int, list[float]]] = field(default_factory=dict)
    tried: dict[str, int] = field(default_factory=dict)


class SessionCache:
    """All of it is keyed by the caller's module and gone with it, but for what lies in the context's cache folder."""

    def __init__(self) -> None:
        self.runner = RunnerCache()
        self.chooser = PrecisionChooser(self.runner)
        self.compiles = CompileCache()
        self._profiles: dict[Path, Profiles] = {}
        self._sessions: weakref.WeakKeyDictionary[nn.Module, _Session] = weakref.WeakKeyDictionary()
        self._observations: weakref.WeakKeyDictionary[nn.Module, tuple[object, ModelObservations]] = (
            weakref.WeakKeyDictionary()
        )
        self._costs: weakref.WeakKeyDictionary[nn.Module, dict[tuple[torch.dtype, bool], MemoryCost]]
        self._costs = weakref.WeakKeyDictionary()

    def choose(
        self, model: ImageModelDescriptor, options: UpscaleOptions, context: RunContext, pixels: int | None = None
    ) -> Choice:
        """The mode to run: what suits the device and the model, unless it failed on pictures before, and of what
        is as good the fastest. It is for a run of so many `pixels`; None: for more than enough."""
        asked = (model, options.precision, options.autocast, context)
        choice = self.chooser.choose(*asked)
        if choice.mode.precision != "fp32":  # nothing is more precise
            raised = self._profiles_in(context).get(self._content(model, context)).raised
            mode = choice.mode
            left = _place(mode, context) in raised
            for higher in self.chooser.safer(model, mode, options.precision, context) if left else ():
                if raised.get(_place(mode, context)) == higher.precision:  # and what that was left for
                    mode = higher
            if mode != choice.mode:
                told = f"{choice.mode.precision} gave ill tiles with this model before: {mode.precision} is used"
                choice = self.chooser.remember(*asked, Choice(mode, f"{told} instead"))
        return replace(choice, mode=self._fastest(model, choice.mode, options, context, pixels))

    def retreat(
        self,
        model: ImageModelDescriptor,
        mode: ExecutionMode,
        options: UpscaleOptions,
        context: RunContext,
        error: ModelFailedError,
    ) -> Choice:
        """What to run instead of `mode`, which failed on a picture with `error`, now and later: the same by torch's
        own operations, then fp32. Raises `error` where nothing is left."""
        if mode.kernels == "plain":
            if mode.precision == "fp32":
                raise error
            return self.chooser.retreat(model, options.precision, options.autocast, context, error)
        profiles, content = self._profiles_in(context), self._content(model, context)
        raised = {**profiles.get(content).raised, _place(mode, context): mode.precision}
        profiles.update(content, raised=raised)
        warning = f"{mode.kernels} kernels failed on a picture and torch's are used: {first_line(error)}"
        return Choice(replace(mode, kernels="plain"), warning)

    def _fastest(
        self,
        model: ImageModelDescriptor,
        mode: ExecutionMode,
        options: UpscaleOptions,
        context: RunContext,
        pixels: int | None,
    ) -> ExecutionMode:
        """`mode`, or what is faster here and computes the same; measured once there is work enough, and
        remembered."""
        others = mode_candidates(model.model, mode, options.precision, context)
        if not others:
            return mode
        profiles, content, place = self._profiles_in(context), self._content(model, context), _place(mode, context)
        place += code_behind(model.model, others)
        profile, session = profiles.get(content), self._sessions.setdefault(model.model, _Session())
        others = [other for other in others if _place(other, context) not in profile.raised]
        tries = session.fastest.setdefault(place, [])
        known = profile.fastest.get(place) or (tries[-1] if len(tries) >= _MOST_TRIES else None)
        for candidate in (mode, *others):
            if str(candidate) == known:
                return candidate
        session.pixels += pixels or 0
        if not others or (pixels is not None and session.pixels < least_pixels(model, context)):
            return mode
        try:
            best, sure = fastest(model, mode, others, context)
        except Exception as error:  # only for want of memory: what else the model raises, it raises in the run
            if not context.is_out_of_memory(error):
                raise
            context.release_cached()
            return mode
        self.runner.put(model, best)
        if sure:
            profiles.update(content, fastest={**profile.fastest, place: str(best.mode)})
        else:
            tries.append(str(best.mode))
        return best.mode

    def chain(
        self,
        model: ImageModelDescriptor,
        mode: ExecutionMode,
        info: ModelInfo,
        options: UpscaleOptions,
        context: RunContext,
    ) -> FallbackChain:
        """The ways to compute the model, from `mode` up; that a run had to climb is remembered."""

        def dress(runner: ModelRunner) -> Step:
            # what a compiler makes of convolutions for a CPU is slower than our kernels
            compiles = options.compile and not (runner.mode.kernels == "winograd" and info.convolutional)
            compiled = self.compiles.forwards_of(runner, model, info, context) if compiles else None
            return Step(runner, self._cost(model, info, runner.mode), compiled)

        def safer() -> list[ExecutionMode]:
            return self.chooser.safer(model, mode, options.precision, context)

        def remember(higher: ExecutionMode) -> None:
            profiles, content = self._profiles_in(context), self._content(model, context)
            left = {mode} if higher.precision == mode.precision else {mode, replace(mode, kernels="plain")}
            raised = {**profiles.get(content).raised, **{_place(one, context): higher.precision for one in left}}
            profiles.update(content, raised=raised)

        return FallbackChain(model, mode, safer, self.runner, dress, remember)

    def observations(self, model: ImageModelDescriptor) -> ModelObservations:
        """What this process has seen of the model with its present weights."""
        versions, (known, observations) = (
            versions_of(model.model),
            self._observations.get(model.model, (None, ModelObservations())),
        )
        if known != versions:
            observations = ModelObservations()
        self._observations[model.model] = versions, observations
        return observations

    def measured(
        self, model: ImageModelDescriptor, context: RunContext
    ) -> Callable[[ModelInfo, ModelRunner], ModelInfo]:
        """What completes the model's info by its reach, which it looks up or measures with a copy on the device."""
        profiles = self._profiles_in(context)
        return lambda info, runner: with_receptive_field(info, model, runner, profiles, context)

    def paced(self, model: ImageModelDescriptor, context: RunContext) -> Paced:
        """What looks up, or measures, the throughput of a copy of the model."""
        profiles, content = self._profiles_in(context), self._content(model, context)
        session = self._sessions.setdefault(model.model, _Session())

        def throughput(runner: ModelRunner, info: ModelInfo, pixels_ahead: int, most_pixels: int) -> Throughput:
            place = _place(runner.mode, context)
            known = Throughput(tuple(profiles.get(content).throughputs.get(place, ())))
            found = known
            if pixels_ahead > 2 * session.tried.get(place, 0):  # else it comes to the same, or the machine is as busy
                found = measure_throughput(known, runner.forward, info, context, pixels_ahead, most_pixels)
                session.tried[place] = pixels_ahead
            if found != known:
                profiles.update(content, throughputs={**profiles.get(content).throughputs, place: found.points})
            seen = session.seen.get(place, {})
            return found.with_points({size: min(times) for size, times in seen.items() if reproduced(times, _ALIKE)})

        def note(runner: ModelRunner, pixels: int, seconds: float) -> None:
            times = session.seen.setdefault(_place(runner.mode, context), {}).setdefault(rounded(pixels), [])
            times[:] = sorted([*times, seconds])[:2]

        return Paced(throughput, note)

    def _cost(self, model: ImageModelDescriptor, info: ModelInfo, mode: ExecutionMode) -> MemoryCost:
        """What a forward in `mode` costs, measured once."""
        known, what = self._costs.setdefault(model.model, {}), (mode.memory_dtype, mode.kernels == "plain")
        if what not in known:
            known[what] = measure_cost(model.model, call_of(model, mode), info, mode.memory_dtype)
        return known[what]

    def _profiles_in(self, context: RunContext) -> Profiles:
        folder = profiles_folder(context.cache_folder)
        return self._profiles.setdefault(folder, Profiles(folder))

    def _content(self, model: ImageModelDescriptor, context: RunContext) -> str:
        return self._profiles_in(context).content(model.model, versions_of(model.model))


def _place(mode: ExecutionMode, context: RunContext) -> str:
    """Where a mode failed: another card, processor or torch may do better."""
    surroundings = describe_environment(context.device)
    how = str(replace(mode, channels_last=False))
    return f"{how} on {surroundings['hardware']}, torch {surroundings['torch']}"
