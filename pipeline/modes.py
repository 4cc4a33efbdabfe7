"""In which mode a run begins, what is safer than that, and what of it is remembered for later runs."""

from __future__ import annotations

from dataclasses import replace

import torch
from spandrel import ImageModelDescriptor

from ..api.context import RunContext
from ..api.errors import ModelFailedError, first_line
from ..api.options import UpscaleOptions
from ..memory import allowed_bytes, weights_bytes
from ..models.autotune import code_behind, fastest, least_pixels, mode_candidates
from ..models.execution import ExecutionMode
from ..models.precision import Choice
from ..models.runner import ModelRunner
from ..storage.fingerprint import describe_environment
from .session_cache import SessionCache

# Copies of the weights that it takes to compare ways on a CPU: the usual one, ours, and Winograd's 36 values of 9.
_COPIES_TO_COMPARE = 6
_MOST_TRIES = 3  # in one session, to find out what is the fastest on a machine that is busy


class ModeChooser:
    """Chooses for one run of a model, and keeps what is learned in the model's profile and in the process's record."""

    def __init__(
        self, model: ImageModelDescriptor, options: UpscaleOptions, context: RunContext, shared: SessionCache
    ) -> None:
        self._model, self._options, self._context, self._shared = model, options, context, shared
        self._record, self._profile = shared.record(model), shared.profile(model, context)

    def choose(self, pixels: int | None) -> Choice:
        """The mode to begin a run of so many `pixels` with (None: of more than enough to be worth any measuring): what
        suits the device and the model, unless it failed on pictures before, and of what is as good the fastest."""
        asked = (self._model, self._options.precision, self._options.autocast, self._context)
        choice = self._shared.precisions.choose(*asked)
        if choice.mode.precision != "fp32":  # nothing is more precise
            raised, mode = self._profile.known.raised, choice.mode
            left = place_of(mode, self._context.device) in raised
            for safer in self.safer(mode) if left else ():
                if raised.get(place_of(mode, self._context.device)) == safer.precision:  # and what that was left for
                    mode = safer
            if mode != choice.mode:
                told = f"{choice.mode.precision} gave faulty tiles with this model before: {mode.precision} is used"
                choice = self._shared.precisions.remember(*asked, Choice(mode, f"{told} instead"))
        return replace(choice, mode=self._fastest(choice.mode, pixels))

    def after_failure(self, mode: ExecutionMode, error: ModelFailedError) -> Choice:
        """What to run instead of `mode`, which failed on a picture with `error`, now and later: the same by torch's
        own operations, then fp32. Raises `error` where nothing is left."""
        if mode.kernels == "plain":
            if mode.precision == "fp32":
                raise error
            asked = (self._model, self._options.precision, self._options.autocast, self._context)
            return self._shared.precisions.retreat(*asked, error)
        self._raise({mode}, mode)
        warning = f"{mode.kernels} kernels failed on a picture and torch's are used: {first_line(error)}"
        return Choice(replace(mode, kernels="plain"), warning)

    def safer(self, mode: ExecutionMode) -> list[ExecutionMode]:
        """The modes to trust more than `mode`, safest last."""
        return self._shared.precisions.safer(self._model, mode, self._options.precision, self._context)

    def remember_fallback(self, left: ExecutionMode, now: ModelRunner) -> None:
        """Later runs begin with `now` where they would begin with `left`, whose tiles came out faulty."""
        self._shared.runners.put(self._model, now)
        same = now.mode.precision == left.precision
        self._raise({left} if same else {left, replace(left, kernels="plain")}, now.mode)

    def _raise(self, modes: set[ExecutionMode], to: ExecutionMode) -> None:
        """Keep in the profile that `modes` are left for the precision of the mode `to`."""
        left = {place_of(mode, self._context.device): to.precision for mode in modes}
        self._profile.keep(raised={**self._profile.known.raised, **left})

    def _fastest(self, mode: ExecutionMode, pixels: int | None) -> ExecutionMode:
        """`mode`, or what is faster here and computes the same; measured once there is work enough, and
        remembered."""
        module, context, record = self._model.model, self._context, self._record
        others = mode_candidates(module, mode, self._options.precision, context)
        if not others:
            return mode
        place, profile = place_of(mode, context.device) + code_behind(module, others), self._profile.known
        others = [other for other in others if place_of(other, context.device) not in profile.raised]
        tries = record.autotuned.setdefault(place, [])
        known = profile.fastest.get(place) or (tries[-1] if len(tries) >= _MOST_TRIES else None)
        for candidate in (mode, *others):
            if str(candidate) == known:
                return candidate
        record.pixels += pixels or 0
        if not others or (pixels is not None and record.pixels < least_pixels(self._model, context)):
            return mode
        left = allowed_bytes(context.device)
        if left is not None and _COPIES_TO_COMPARE * weights_bytes(module) > left:
            return mode
        try:
            best, sure = fastest(self._model, mode, others, context, self._shared.clock)
        except Exception as error:  # what the model fails at here, it may do well in the run, or fail there and tell
            if not isinstance(error, ModelFailedError) and not context.is_out_of_memory(error):
                raise
            context.release_cached()
            return mode
        self._shared.runners.put(self._model, best)
        if sure:
            self._profile.keep(fastest={**profile.fastest, place: str(best.mode)})
        else:
            tries.append(str(best.mode))
        return best.mode


def place_of(mode: ExecutionMode, device: torch.device) -> str:
    """Where something was found out about a mode: another card, processor or torch may do better."""
    surroundings = describe_environment(device)
    how = str(replace(mode, channels_last=False))
    return f"{how} on {surroundings['hardware']}, torch {surroundings['torch']}"
