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
from ..api.model_info import ModelTraits
from ..api.options import UpscaleOptions
from ..compile_cache import CompileCache
from ..kernels.timing import reproduced
from ..memory import MemoryCost, measure_cost
from ..models.autotune import code_behind, fastest, least_pixels, rivals
from ..models.precision import Choice, PrecisionChooser
from ..models.receptive_field import with_reach
from ..models.runner import Variant, WorkingModel, WorkingModels, call_of, versions_of
from ..models.throughput import Pace, Paced, measure_pace, rounded
from ..storage.fingerprint import describe_environment
from ..storage.profiles import Profiles, profiles_folder
from .fallback import Ladder, Step
from .retry import Nature

_ALIKE = 0.25  # batches of real work, which take long, and among other things
_MOST_TRIES = 3  # in one session, to find out what is the fastest on a machine that is busy


@dataclass
class _Session:
    """What was found out of a model's copies in this session, by place, and is found out anew in the next one: the
    `fastest` that each try on a busy machine came to, the newest last; the seconds a megapixel that runs have `seen`,
    by a forward's pixels (rounded); the most pixels of work for which its pace was `tried` to be measured; the `pixels`
    of all runs."""

    pixels: int = 0
    fastest: dict[str, list[str]] = field(default_factory=dict)
    seen: dict[str, dict[int, list[float]]] = field(default_factory=dict)
    tried: dict[str, int] = field(default_factory=dict)


class Caches:
    """All of it is keyed by the caller's module and gone with it, but for what lies in the context's cache folder."""

    def __init__(self) -> None:
        self.working = WorkingModels()
        self.chooser = PrecisionChooser(self.working)
        self.compiles = CompileCache()
        self._profiles: dict[Path, Profiles] = {}
        self._sessions: weakref.WeakKeyDictionary[nn.Module, _Session] = weakref.WeakKeyDictionary()
        self._natures: weakref.WeakKeyDictionary[nn.Module, tuple[object, Nature]] = weakref.WeakKeyDictionary()
        self._costs: weakref.WeakKeyDictionary[nn.Module, dict[tuple[torch.dtype, bool], MemoryCost]]
        self._costs = weakref.WeakKeyDictionary()

    def choose(
        self, model: ImageModelDescriptor, options: UpscaleOptions, context: RunContext, pixels: int | None = None
    ) -> Choice:
        """The variant to run: what suits the device and the model, unless it failed on pictures before, and of what
        is as good the fastest. It is for a run of so many `pixels`; None: for more than enough."""
        asked = (model, options.precision, options.autocast, context)
        choice = self.chooser.choose(*asked)
        if choice.variant.precision != "fp32":  # nothing is more precise
            raised = self._profiles_in(context).get(self._content(model, context)).raised
            variant = choice.variant
            left = _place(variant, context) in raised
            for higher in self.chooser.above(model, variant, options.precision, context) if left else ():
                if raised.get(_place(variant, context)) == higher.precision:  # and what that was left for
                    variant = higher
            if variant != choice.variant:
                told = f"{choice.variant.precision} gave ill tiles with this model before: {variant.precision} is used"
                choice = self.chooser.remember(*asked, Choice(variant, f"{told} instead"))
        return replace(choice, variant=self._fastest(model, choice.variant, options, context, pixels))

    def retreat(
        self,
        model: ImageModelDescriptor,
        variant: Variant,
        options: UpscaleOptions,
        context: RunContext,
        error: ModelFailedError,
    ) -> Choice:
        """What to run instead of `variant`, which failed on a picture with `error`, now and later: the same by torch's
        own operations, then fp32. Raises `error` where nothing is left."""
        if variant.kernels == "plain":
            if variant.precision == "fp32":
                raise error
            return self.chooser.retreat(model, options.precision, options.autocast, context, error)
        profiles, content = self._profiles_in(context), self._content(model, context)
        raised = {**profiles.get(content).raised, _place(variant, context): variant.precision}
        profiles.update(content, raised=raised)
        warning = f"{variant.kernels} kernels failed on a picture and torch's are used: {first_line(error)}"
        return Choice(replace(variant, kernels="plain"), warning)

    def _fastest(
        self,
        model: ImageModelDescriptor,
        variant: Variant,
        options: UpscaleOptions,
        context: RunContext,
        pixels: int | None,
    ) -> Variant:
        """`variant`, or what is faster here and computes the same; measured once there is work enough, and
        remembered."""
        others = rivals(model.model, variant, options.precision, context)
        if not others:
            return variant
        profiles, content, place = self._profiles_in(context), self._content(model, context), _place(variant, context)
        place += code_behind(model.model, others)
        profile, session = profiles.get(content), self._sessions.setdefault(model.model, _Session())
        others = [other for other in others if _place(other, context) not in profile.raised]
        tries = session.fastest.setdefault(place, [])
        known = profile.fastest.get(place) or (tries[-1] if len(tries) >= _MOST_TRIES else None)
        for candidate in (variant, *others):
            if str(candidate) == known:
                return candidate
        session.pixels += pixels or 0
        if not others or (pixels is not None and session.pixels < least_pixels(model, context)):
            return variant
        try:
            best, sure = fastest(model, variant, others, context)
        except Exception as error:  # only for want of memory: what else the model raises, it raises in the run
            if not context.is_out_of_memory(error):
                raise
            context.release_cached()
            return variant
        self.working.put(model, best)
        if sure:
            profiles.update(content, fastest={**profile.fastest, place: str(best.variant)})
        else:
            tries.append(str(best.variant))
        return best.variant

    def ladder(
        self,
        model: ImageModelDescriptor,
        variant: Variant,
        traits: ModelTraits,
        options: UpscaleOptions,
        context: RunContext,
    ) -> Ladder:
        """The ways to compute the model, from `variant` up; that a run had to climb is remembered."""

        def dress(working: WorkingModel) -> Step:
            # what a compiler makes of convolutions for a CPU is slower than our kernels
            compiles = options.compile and not (working.variant.kernels == "winograd" and traits.convolutional)
            compiled = self.compiles.forwards_of(working, model, traits, context) if compiles else None
            return Step(working, self._cost(model, traits, working.variant), compiled)

        def above() -> list[Variant]:
            return self.chooser.above(model, variant, options.precision, context)

        def remember(higher: Variant) -> None:
            profiles, content = self._profiles_in(context), self._content(model, context)
            left = {variant} if higher.precision == variant.precision else {variant, replace(variant, kernels="plain")}
            raised = {**profiles.get(content).raised, **{_place(one, context): higher.precision for one in left}}
            profiles.update(content, raised=raised)

        return Ladder(model, variant, above, self.working, dress, remember)

    def nature(self, model: ImageModelDescriptor) -> Nature:
        """What this process has seen of the model with its present weights."""
        versions, (known, nature) = versions_of(model.model), self._natures.get(model.model, (None, Nature()))
        if known != versions:
            nature = Nature()
        self._natures[model.model] = versions, nature
        return nature

    def measured(
        self, model: ImageModelDescriptor, context: RunContext
    ) -> Callable[[ModelTraits, WorkingModel], ModelTraits]:
        """What completes the model's traits by its reach, which it looks up or measures with a copy on the device."""
        profiles = self._profiles_in(context)
        return lambda traits, working: with_reach(traits, model, working, profiles, context)

    def paced(self, model: ImageModelDescriptor, context: RunContext) -> Paced:
        """What looks up, or measures, the pace of a copy of the model."""
        profiles, content = self._profiles_in(context), self._content(model, context)
        session = self._sessions.setdefault(model.model, _Session())

        def pace(working: WorkingModel, traits: ModelTraits, pixels_ahead: int, most_pixels: int) -> Pace:
            place = _place(working.variant, context)
            known = Pace(tuple(profiles.get(content).paces.get(place, ())))
            found = known
            if pixels_ahead > 2 * session.tried.get(place, 0):  # else it comes to the same, or the machine is as busy
                found = measure_pace(known, working.forward, traits, context, pixels_ahead, most_pixels)
                session.tried[place] = pixels_ahead
            if found != known:
                profiles.update(content, paces={**profiles.get(content).paces, place: found.points})
            seen = session.seen.get(place, {})
            return found.with_points({size: min(times) for size, times in seen.items() if reproduced(times, _ALIKE)})

        def note(working: WorkingModel, pixels: int, seconds: float) -> None:
            times = session.seen.setdefault(_place(working.variant, context), {}).setdefault(rounded(pixels), [])
            times[:] = sorted([*times, seconds])[:2]

        return Paced(pace, note)

    def _cost(self, model: ImageModelDescriptor, traits: ModelTraits, variant: Variant) -> MemoryCost:
        """What a forward in `variant` costs, measured once."""
        known, what = self._costs.setdefault(model.model, {}), (variant.memory_dtype, variant.kernels == "plain")
        if what not in known:
            known[what] = measure_cost(model.model, call_of(model, variant), traits, variant.memory_dtype)
        return known[what]

    def _profiles_in(self, context: RunContext) -> Profiles:
        folder = profiles_folder(context.cache_folder)
        return self._profiles.setdefault(folder, Profiles(folder))

    def _content(self, model: ImageModelDescriptor, context: RunContext) -> str:
        return self._profiles_in(context).content(model.model, versions_of(model.model))


def _place(variant: Variant, context: RunContext) -> str:
    """Where a variant failed: another card, processor or torch may do better."""
    surroundings = describe_environment(context.device)
    how = str(replace(variant, channels_last=False))
    return f"{how} on {surroundings['hardware']}, torch {surroundings['torch']}"
