"""In which mode a run begins, what is safer than that, and what of it is remembered for later runs."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import torch
from spandrel import ImageModelDescriptor
from torch import Tensor

from ..api.context import RunContext
from ..api.errors import ModelFailedError, first_line
from ..api.options import Precision, UpscaleOptions
from ..backends.offer import automatic_precisions
from ..kernels.build import OURS, is_pending
from ..kernels.layers import LayerKind, layers_of
from ..models.autotune import by_our_kernels, code_behind, to_be_measured
from ..models.autotune import study as study_of_the_fastest
from ..models.execution import ExecutionMode
from ..models.info import model_info
from ..models.known_kernels import verified
from ..models.precision import Choice, considered, precisions_between, safer_precisions, usual_mode, why_not
from ..models.runner import ModelRunner
from ..models.study import Study
from ..models.trial import probe_picture, trial
from ..storage.fingerprint import describe_environment
from .layer_knowledge import by_seconds
from .session_cache import SessionCache
from .studies import StudyRunner

Piece = Callable[[], Tensor | None]
"""A piece of the run's first picture, [1, C, h, w] 0..1 for the model; None where it is too small for one."""

_ASKED_AGAIN = 0.1  # seconds
_THOROUGH_PATIENCE = 120.0
_PATIENCE = 5.0  # seconds that kernels which are being built are waited for at most, in a run that takes ten times that
_SHARE_TO_WAIT = 0.1


class _Settled(NamedTuple):
    """A choice, and what its run would have liked to know."""

    choice: Choice
    later: tuple[Study, ...]


class ModeChooser:
    """Chooses for one run of a model by what is known of it, and keeps what is learned in the model's profile.

    `trials` finds out at once what a run may spend on that; `studies` are what is left for later.
    """

    def __init__(
        self,
        model: ImageModelDescriptor,
        options: UpscaleOptions,
        context: RunContext,
        shared: SessionCache,
        trials: StudyRunner,
    ) -> None:
        self._model, self._options, self._context, self._shared = model, options, context, shared
        self._profile, self._record, self._trials = shared.profile(model, context), shared.record(model), trials
        self.studies: list[Study] = []

    def choose(self, pixels: int, piece: Piece) -> Choice:
        """The mode to begin a run of so many `pixels` with: the fastest of those that suit the device and the model, as
        far as that is known, unless it failed on pictures before. That of the last run where nothing that decides it
        has changed, and nothing was left to be found out."""
        context, made = self._context, list[Choice]()
        cpu = context.device.type == "cpu"
        known, layers = self._profile.known, self._shared.layers(context).times if cpu else None
        depends_on = self._options, context.device, context.switches, context.cache_folder, known, layers

        def settled() -> _Settled | None:
            made.append(self._choose(pixels, piece))
            waiting = any(map(is_pending, OURS))
            return None if waiting or self._profile.known is not known else _Settled(made[0], tuple(self.studies))

        kept = self._record.while_the_same("mode", depends_on, settled)
        if made:
            return made[0]
        if kept is None or any(self._trials.affordable(study, pixels) for study in kept.later):
            return self._choose(pixels, piece)
        self.studies = [*kept.later]
        return kept.choice

    def _choose(self, pixels: int, piece: Piece) -> Choice:
        asked, device = self._options.precision, self._context.device
        switches = self._context.switches
        automatic = switches.precisions or automatic_precisions(switches.engine)
        precisions = considered(asked, self._model, device, automatic)
        ways_of = {precision: [*self._ways(precision, pixels)] for precision in precisions}
        timed = device.type == "cpu" and not (self._options.reproducible or switches.engine)
        if timed and asked != "auto" and len(ways_of.get("bf16", ())) > 1:
            ways_of["bf16"] = self._fastest_first(ways_of["bf16"], pixels)
        ways = [way for some in ways_of.values() for way in some]
        if timed and asked == "auto":
            ways = self._fastest_first(ways, pixels)
        left: dict[str, str] = {}
        for mode in ways:
            if reason := not self._options.reproducible and self._profile.known.raised.get(self._place(mode)):
                left.setdefault(mode.precision, reason)
            elif self._passes(mode, ways, pixels, piece):
                break
        else:
            mode = self._usual("fp32", False)  # there is nothing safer
        left.pop(mode.precision, None)
        told = None
        for precision, reason in left.items():
            told = told or f"{precision} {reason} with this model before: {mode.precision} is used instead"
        if asked not in ("auto", mode.precision) and not told:
            told = f"{asked} was asked for, {mode.precision} is used: {why_not(asked, self._model, device)}"
        return Choice(mode, told)

    def keep_choice(self, mode: ExecutionMode, compiled: Sequence[str]) -> int:
        """Note what a run computes by: where that is not what the last one had, it is another revision of the profile.
        Returns the revision."""
        told = f"{mode}{code_behind(self._model.model, mode)}" + "".join(f", compiled for {some}" for some in compiled)
        seen = "" if self._options.reproducible else self._shared.observations(self._profile).told()
        told += f", seen {hashlib.sha256(seen.encode()).hexdigest()[:8]}" if seen else ""
        question, known = self._question(), self._profile.known
        return (
            known.revision
            if known.chosen.get(question) == told
            else self._profile.keep(chosen={question: told}).revision
        )

    def after_failure(self, mode: ExecutionMode, error: ModelFailedError) -> Choice:
        """What to run instead of `mode`, which failed on a picture with `error`: the same by torch's own operations, in
        the usual layout, then fp32. Raises `error` where nothing is left."""
        reason = first_line(error)
        if mode.kernels != "plain":
            told = f"{mode.kernels} kernels failed on a picture and torch's are used: {reason}"
            return Choice(self._by_torch(mode), told)
        if mode.channels_last:  # views that want contiguous memory, mostly; the plain layout has them
            return Choice(replace(mode, channels_last=False))
        if mode.precision == "fp32":
            raise error
        told = f"half precision failed on a picture and fp32 is used: {reason}"
        return Choice(usual_mode("fp32", False, self._model), told)

    def remember_failure(self, failed: ExecutionMode, error: ModelFailedError) -> None:
        """Later runs do not begin with `failed`, which failed on a picture that another mode made."""
        reason = first_line(error)
        if failed.kernels == "plain" and failed.channels_last:
            self._profile.keep(trials={self._layout(failed): reason})
        else:
            self._profile.keep(raised={self._place(failed): f"failed on a picture ({reason})"})

    def safer(self, mode: ExecutionMode) -> list[ExecutionMode]:
        """The modes to trust more than `mode`, safest last: torch's own kernels, then what is more precise.

        Where precision is automatic, half types only if their try is as close to fp32 as automatic demands.
        """
        found = [] if mode.kernels == "plain" else [self._by_torch(mode)]
        automatic = self._options.precision == "auto"
        for precision in safer_precisions((found or [mode])[0].precision, self._model, self._context.device):
            usual = self._usual(precision, mode.autocast)
            if precision == "fp32" or not automatic or self._tried(usual):
                found.append(usual)
        return found

    def remember_fallback(self, left: ExecutionMode, now: ModelRunner) -> int:
        """Later runs do not begin with `left`, whose tiles came out faulty, but, in this process, with `now`. Returns
        the profile's revision."""
        self._shared.runners.put(self._model, now)
        modes = {left}
        for precision in precisions_between(left.precision, now.mode.precision):  # what came out faulty on the way, too
            modes |= {replace(left, precision=precision, kernels=kernels) for kernels in (left.kernels, "plain")}
        return self._profile.keep(raised={self._place(mode): "gave faulty tiles" for mode in modes}).revision

    # --- details -----------------------------------------------------------------------------------------------------

    def _ways(self, precision: Precision, pixels: int) -> Iterator[ExecutionMode]:
        """How to compute a run of so many `pixels` in `precision`, fastest first, as far as is known; torch's own way
        last."""
        usual, device, module = self._usual(precision, self._options.autocast), self._context.device, self._model.model
        if self._options.reproducible:
            pass  # only what is the same everywhere
        elif device.type == "cpu":
            yield from self._by_our_kernels(usual, pixels)
        else:
            others = to_be_measured(module, usual, device)
            if not self._context.switches.torch_attention:
                others = [other for other in others if other.kernels != "attention"]
            known = self._profile.known.fastest.get(self._place(usual))
            if known is None and others:
                self.studies.append(study_of_the_fastest(self._model, usual, others, self._place(usual)))
            yield from (other for other in others if str(other) == known)
        yield usual

    def _by_our_kernels(self, usual: ExecutionMode, pixels: int) -> list[ExecutionMode]:
        """Those that are built within the patience of such a run, beginning now; an interrupt ends the wait."""
        module, folder, text = self._model.model, self._context.cache_folder, ""
        found = by_our_kernels(module, usual, folder)
        until = time.monotonic() + self._patience(pixels) if found is None else 0.0
        while found is None and time.monotonic() + _ASKED_AGAIN < until:
            text = "kernels for this machine are being built, once"
            self._context.say(text)
            self._context.raise_if_interrupted()
            time.sleep(_ASKED_AGAIN)
            found = by_our_kernels(module, usual, folder)
        if text:
            self._context.say("")
        return found or []

    def _fastest_first(self, ways: list[ExecutionMode], pixels: int) -> list[ExecutionMode]:
        """The ways to compute on a CPU, by what their layers take, down to torch's own in fp32. Where some of that is
        not known, fp32 is preferred, and it is found out for later runs: now, if that is little beside this one, whose
        result does not depend on the clock for it, or else between runs."""
        knowledge, kinds = self._shared.layers(self._context), self._layers()

        study = knowledge.study(kinds, ways)
        if study:
            if self._trials.affordable(study, pixels):
                self._trials.run(study)
            else:
                self.studies.append(study)
            return [way for way in ways if way.precision == "fp32"] or ways
        return by_seconds(ways, knowledge, kinds)

    def _layers(self) -> Mapping[LayerKind, float]:
        return self._record.once("layers", lambda: layers_of(self._model.model, self._model.scale))

    def _passes(self, mode: ExecutionMode, ways: list[ExecutionMode], pixels: int, piece: Piece) -> bool:
        """Whether `mode` is known to compute what it should. Where that takes a trial, it is made now if it is little
        beside the run, or else left for later."""
        if not self._takes_trial(mode):
            return True
        verdict = self._profile.known.trials.get(self._place(mode))
        if verdict is not None:
            return not verdict
        known = (way for way in [*ways, self._usual("fp32", False)] if not self._takes_trial(way))
        truth = self._usual("fp32", False) if mode.only_products else next(known)
        picture = piece()
        if picture is None:
            picture = probe_picture(self._model)
        study = trial(mode, truth, self._place(mode), picture, model_info(self._model).samples)
        if not self._trials.affordable(study, pixels):
            self.studies.append(study)
            return False
        self._trials.run(study)
        self._trials.release()
        return self._profile.known.trials.get(self._place(mode)) == ""

    def _takes_trial(self, mode: ExecutionMode) -> bool:
        half_by_itself = mode.precision != "fp32" and self._options.precision == "auto"
        known = mode.kernels == "plain" or (verified(self._model, mode.kernels) and not mode.only_products)
        return half_by_itself or not known

    def _tried(self, mode: ExecutionMode) -> bool:
        """Whether `mode` is close to fp32, tried now if need be: something went wrong already."""
        place = self._place(mode)
        if place not in self._profile.known.trials:
            truth = self._usual("fp32", False)
            samples = model_info(self._model).samples
            self._trials.run(trial(mode, truth, place, probe_picture(self._model), samples))
        return self._profile.known.trials.get(place) == ""

    def _by_torch(self, mode: ExecutionMode) -> ExecutionMode:
        """As close to fp32 as `mode`, by torch's own operations."""
        return self._usual("fp32", False) if mode.only_products else replace(mode, kernels="plain")

    def _usual(self, precision: Precision, autocast: bool) -> ExecutionMode:
        mode = usual_mode(precision, autocast, self._model)
        fails = not self._options.reproducible and self._layout(mode) in self._profile.known.trials
        return replace(mode, channels_last=False) if fails else mode

    def _patience(self, pixels: int) -> float:
        """Seconds that a run of so many `pixels` can wait for kernels: a tenth of what it takes without them, as far as
        that is known."""
        if self._trials.unlimited:
            return _THOROUGH_PATIENCE
        account = self._profile.account(describe_environment(self._context.device)["hardware"])
        rate = account.work_seconds / max(account.work_pixels, 1)
        if not rate and self._context.device.type == "cpu":
            usual = self._usual("fp32", False)
            rate = (self._shared.layers(self._context).seconds(self._layers(), usual) or 0.0) / 1e6
        seconds = rate * pixels
        return min(_PATIENCE, _SHARE_TO_WAIT * seconds)

    def _question(self) -> str:
        """What was asked for, and where."""
        options = self._options
        told = f"{options.precision}{' autocast' * options.autocast}{' compiled' * options.compile}"
        told += " reproducible" * options.reproducible
        return f"{told} on {surroundings_of(self._context.device)}"

    def _place(self, mode: ExecutionMode) -> str:
        return place_of(mode, self._context.device) + code_behind(self._model.model, mode)

    def _layout(self, mode: ExecutionMode) -> str:
        return f"layout of {place_of(mode, self._context.device)}"


def place_of(mode: ExecutionMode, device: torch.device) -> str:
    """Where something was found out about a mode: another card, processor or torch may do better."""
    return _told(mode, surroundings_of(device))


@lru_cache(maxsize=64)
def _told(mode: ExecutionMode, surroundings: str) -> str:
    return f"{replace(mode, channels_last=False)} on {surroundings}"


def surroundings_of(device: torch.device) -> str:
    """The hardware and torch, in one line."""
    surroundings = describe_environment(device)
    return f"{surroundings['hardware']}, torch {surroundings['torch']}"
