"""Computes what studies ask for, within an account, and keeps what they find in the model's profile."""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable
from dataclasses import replace

import torch
from spandrel import ImageModelDescriptor

from ..api.context import RunContext
from ..api.errors import first_line
from ..kernels.heartbeat import heard_by
from ..memory import MemoryCost, allowed_bytes, weights_bytes, working_bytes
from ..models.blocks import blocks_of, listening
from ..models.execution import ExecutionMode
from ..models.known_memory import rough_cost
from ..models.runner import ModelRunner
from ..models.study import Answer, Ask, Pause, Study
from ..storage.fingerprint import describe_environment, versions_of
from ..storage.profiles import Account
from .residency import bring
from .session_cache import SessionCache

logger = logging.getLogger("cudaspeed")

# What all studies of a model may take of the work that was done with it, and those within a run of that run.
_SHARE_OF_WORK, SHARE_OF_RUN = 0.05, 0.10
_EVERYTHING = 1 << 62  # pixels
_MOST_BLOCKS = 200  # of a model, between which it can be stopped


class _GivenWayError(Exception):
    """A run has come, for which a forward is left."""


class _NotBegunError(_GivenWayError):
    """It came while the model was copied for the forward: the copy is kept."""


class StudyRunner:
    """Runs studies of one model on a context's device, while its weights are what they were; `spent` are the input
    pixels that these took.

    What they cost is counted in input pixels of forwards, which no busy machine and no clock makes more or fewer; and
    in seconds, so that forwards which are small, and therefore slow, do not take more than is meant: those that a run
    waits for it; between runs, on a CPU, no more than the thread's own of the processor. One of low priority mostly
    waits there for others, who lose nothing by it.
    """

    def __init__(
        self, model: ImageModelDescriptor, context: RunContext, shared: SessionCache, unlimited: bool = False
    ) -> None:
        self.unlimited, self.spent, self._within_a_run = unlimited, 0, False
        self._model, self._context, self._shared = weakref.ref(model), context, shared
        self._versions = versions_of(model.model)
        self._hardware = describe_environment(context.device)["hardware"]
        self._copies: dict[ExecutionMode, ModelRunner] = {}

    def affordable(self, study: Study, pixels: int) -> bool:
        """Whether a run of so many `pixels` may spend that much on finding something out, before it begins."""
        if self.unlimited:
            return True
        account = self._account()
        within = _SHARE_OF_WORK * (account.work_pixels + pixels) - account.learning_pixels
        if study.pixels > min(SHARE_OF_RUN * pixels - self.spent, within):
            return False
        run = self.seconds_of(pixels)
        allowed = self.allowed_seconds() + _SHARE_OF_WORK * run
        return not study.seconds or study.seconds <= min(SHARE_OF_RUN * run, allowed)

    def allowed_pixels(self) -> int:
        """Input pixels of forwards that may be spent on studies by now."""
        account = self._account()
        return _EVERYTHING if self.unlimited else int(_SHARE_OF_WORK * account.work_pixels - account.learning_pixels)

    def allowed_seconds(self) -> float:
        """Seconds that may be spent on finding something out by now."""
        account = self._account()
        return math.inf if self.unlimited else _SHARE_OF_WORK * account.work_seconds - account.learning_seconds

    def seconds_of(self, pixels: int) -> float:
        """What forwards of so many input pixels take, by the work that was done."""
        account = self._account()
        return account.work_seconds / max(account.work_pixels, 1) * pixels

    def repaid(self, study: Study) -> bool:
        """Whether the work that was done is enough for the study to be made between runs."""
        account, seconds = self._account(), study.seconds + self.seconds_of(study.pixels)
        in_pixels = account.learning_pixels + study.pixels <= _SHARE_OF_WORK * account.work_pixels
        return in_pixels and account.learning_seconds + seconds < _SHARE_OF_WORK * account.work_seconds

    def run(self, study: Study) -> None:
        """All of a study, within a run, which an interrupt ends between the blocks of a forward. What it finds is kept;
        where memory ran out on the way, nothing is found."""
        self._within_a_run = True
        try:
            ask = self.first(study)
            while ask:
                self._context.raise_if_interrupted()
                ask = self.step(study, ask)
        finally:
            self._within_a_run = False

    def first(self, study: Study) -> Ask | Pause | None:
        """What a study asks for first. None: it is known what it would find, or cannot be found."""
        model = self._unchanged_model()
        if model is None or study.name in self._shared.profile(model, self._context).known.trials:
            return None
        return self._within_memory(study, lambda: self._next(model, study, None))

    def step(self, study: Study, ask: Ask | Pause, give_way: Callable[[], bool] = lambda: False) -> Ask | Pause | None:
        """Compute what is asked for; what is asked for next: the same where it had to `give_way`, which is asked
        between the blocks of a forward. None: the study has ended."""
        model = self._unchanged_model()
        if model is None:
            return None
        if isinstance(ask, Pause):
            return self._within_memory(study, lambda: self._on_its_own(model, study))
        try:
            return self._within_memory(study, lambda: self._next(model, study, self._answer(model, ask, give_way)))
        except _NotBegunError:
            return replace(ask)  # another one, of which nothing was left
        except _GivenWayError:
            return ask

    def _on_its_own(self, model: ImageModelDescriptor, study: Study) -> Ask | Pause | None:
        seconds_taken = self._stopwatch()
        try:
            return self._next(model, study, Answer(None, 0.0))
        except Exception as error:  # a library may fail in any way, for which no picture is given up
            if self._within_a_run:
                self._context.raise_if_interrupted()
            if self._context.is_out_of_memory(error):
                raise
            logger.debug("%s: %s", study.name, first_line(error))
            self._shared.profile(model, self._context).keep(trials={study.name: first_line(error)})
            return None
        finally:
            if not self.unlimited:
                spent = Account(learning_seconds=seconds_taken())
                self._shared.profile(model, self._context).spend(self._hardware, spent)

    def _stopwatch(self) -> Callable[[], float]:
        """Tells, on this thread, the seconds that were taken from others since now."""
        shared = self._shared
        clocks = [shared.clock]
        if not self._within_a_run and self._context.device.type == "cpu":
            clocks.append(shared.thread_clock)
        began = [clock() for clock in clocks]
        return lambda: max(0.0, min(clock() - then for clock, then in zip(clocks, began, strict=True)))

    def _account(self) -> Account:
        model = self._model()
        return self._shared.profile(model, self._context).account(self._hardware) if model else Account()

    def release(self) -> None:
        """Let go of the copies that were made for the studies."""
        self._copies.clear()

    def _unchanged_model(self) -> ImageModelDescriptor | None:
        model = self._model()
        return model if model and versions_of(model.model) == self._versions else None

    def _within_memory(self, study: Study, work: Callable[[], Ask | Pause | None]) -> Ask | Pause | None:
        """What `work` gives; None, and the study ends, where memory runs out."""
        try:
            return work()
        except Exception as error:  # an interrupt goes on up
            if not self._context.is_out_of_memory(error):
                raise
            logger.debug("%s: %s", study.name, first_line(error))
            self._context.release_cached()
            return None

    def _next(self, model: ImageModelDescriptor, study: Study, answer: Answer | None) -> Ask | Pause | None:
        try:
            return study.steps.send(answer) if answer else next(study.steps)
        except StopIteration as end:
            # by its name it is known not to be needed again
            found = {**end.value, "trials": {study.name: "", **end.value.get("trials", {})}}
            tried = self._copies.get(study.tries) if study.tries else None
            if tried and not found["trials"][study.name]:
                self._shared.runners.put(model, tried)  # the next run need not make it
            self._shared.profile(model, self._context).keep(**found)
            return None

    def _stop(self, give_way: Callable[[], bool]) -> None:
        """Raises within a run what an interrupt raises, else where one has come to which this has to give way."""
        if self._within_a_run:
            self._context.raise_if_interrupted()
        elif give_way():
            raise _GivenWayError

    def _check_room(self, model: ImageModelDescriptor, ask: Ask, copied: bool) -> None:
        """Raise `MemoryError` where the forward, and the copy of the model if one is made for it, take more main memory
        than this process is allowed: to find something out is not worth being ended."""
        device, mode = self._context.device, ask.mode
        left = allowed_bytes(device)
        if left is None:
            return
        measured = self._shared.profile(model, self._context).known.costs.values()
        costs = [MemoryCost(int(weights), linear, square) for weights, linear, square in measured]
        if bound := rough_cost(model, mode.kernels, mode.memory_dtype):
            costs.append(bound)
        takes = max((working_bytes(cost, ask.pixels, device) for cost in costs), default=0)
        if takes + copied * weights_bytes(model.model) > left:
            raise MemoryError(f"a forward of {ask.pixels} pixels takes more than the {left} bytes that are allowed")

    def _answer(self, model: ImageModelDescriptor, ask: Ask, give_way: Callable[[], bool]) -> Answer:
        clock, context = self._shared.clock, self._context
        seconds_taken, listener, pixels = self._stopwatch(), lambda _: self._stop(give_way), ask.pixels
        try:
            runner = self._copies.get(ask.mode) or self._shared.runners.find(model, ask.mode)
            if runner is not None and context.device.type == "cpu" and not _is_on_cpu(runner):
                runner = None
            self._check_room(model, ask, runner is None)
            if runner is None:
                with heard_by(listener if self._within_a_run else None):  # a copy that gave way would be lost
                    runner = self._copies[ask.mode] = ModelRunner(model, ask.mode)
                if not self._within_a_run and give_way():
                    raise _NotBegunError
            if context.device.type != "cpu":  # a copy is there already
                bring(context, runner, 0)
            with torch.inference_mode():
                started = clock()
                with listening(blocks_of(runner.module, _MOST_BLOCKS), listener):
                    output = runner.forward(ask.picture.to(context.device)).float().cpu()
                answer = Answer(output, max(0.0, clock() - started))
        except Exception as error:  # an architecture may fail in any way in a mode it does not know
            if self._within_a_run:
                context.raise_if_interrupted()
            if isinstance(error, _NotBegunError):
                pixels = 0
            if isinstance(error, _GivenWayError) or context.is_out_of_memory(error):
                raise
            answer = Answer(None, 0.0, first_line(error))
        finally:
            if not self.unlimited:
                self.spent += pixels
                spent = Account(learning_pixels=pixels, learning_seconds=seconds_taken())
                self._shared.profile(model, context).spend(self._hardware, spent)
        return answer


def _is_on_cpu(runner: ModelRunner) -> bool:
    return all(weight.device.type == "cpu" for weight in runner.module.parameters())
