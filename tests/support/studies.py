"""Studies made in tests: by whatever computes, taking however long one likes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from spandrel import ImageModelDescriptor
from torch import Tensor

from cudaspeed.models.execution import ExecutionMode
from cudaspeed.models.runner import ModelRunner
from cudaspeed.models.study import Answer, Ask, Study

Forward = Callable[[ExecutionMode, Tensor], Tensor]
Seconds = Callable[[Ask], float]


def of_a_model(model: ImageModelDescriptor) -> Forward:
    """Computes as runs do."""
    runners: dict[ExecutionMode, ModelRunner] = {}

    def forward(mode: ExecutionMode, picture: Tensor) -> Tensor:
        if mode not in runners:
            runners[mode] = ModelRunner(model, mode)
        return runners[mode].forward(picture).float()

    return forward


def found_by(study: Study, forward: Forward, seconds: Seconds = lambda ask: 1.0) -> Mapping[str, Any]:
    """What a study finds where forwards take so many `seconds`, and cost no more pixels than it says."""
    answer, pixels = None, 0
    while True:
        try:
            ask = study.steps.send(answer) if answer else next(study.steps)
        except StopIteration as end:
            return end.value
        pixels += ask.picture[:, 0].numel()
        assert pixels <= study.pixels, f"{study.name} costs more than it says"
        try:
            answer = Answer(forward(ask.mode, ask.picture), seconds(ask))
        except Exception as error:  # as StudyRunner takes it
            answer = Answer(None, 0.0, str(error))
