"""What other engines than torch's own make of a model: built, loaded, and held against the eager forward."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from spandrel import ImageModelDescriptor

from ..api.errors import first_line
from ..api.model_info import Forward
from ..backends.errors import CompileError
from ..backends.interface import Work
from ..backends.offer import usable
from ..models.execution import ExecutionMode
from ..models.runner import ModelRunner
from .aoti import Compiler, Whole
from .request import Request

logger = logging.getLogger("cudaspeed")

_AS_IT_IS = ExecutionMode("fp32", autocast=False, channels_last=False)  # engines choose types and layouts themselves


class Candidate(NamedTuple):
    """A forward that computes what it should, and the file that it was loaded from; `engine` made it, "" is torch's."""

    engine: str
    path: Path
    forward: Forward


def others(
    request: Request, descriptor: ImageModelDescriptor, compiler: Compiler, scratch: Path
) -> Iterator[Candidate]:
    """What the engines that are installed make of the model, each when it is asked for. One that fails, or computes
    something else, is left out and costs a line in the log."""
    device = torch.device(request.device)
    engines = usable(device)
    if not engines:
        return
    runner = ModelRunner(descriptor, _AS_IT_IS)
    runner.module.to(device)
    for number, engine in enumerate(engines):
        path = scratch / f"model.{number}"
        work = Work(Whole(runner), compiler.example(), request.shapes, request.mode.precision, device, scratch)
        try:
            engine.build(work, path)
            forward = engine.load(path, device)
            flaw = compiler.flaw(forward)
            if flaw:
                raise CompileError(f"its result is wrong: {flaw}")
        except Exception as error:  # they fail in every way there is, and are only tried
            logger.warning("%s is left out: %s", engine.name, first_line(error))
            continue
        yield Candidate(engine.name, path, forward)
