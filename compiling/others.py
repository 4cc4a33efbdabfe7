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
from ..api.options import Precision
from ..backends.errors import CompileError
from ..backends.interface import Engine, Work
from ..backends.offer import engine, usable, weights_in
from ..models.execution import ExecutionMode
from ..models.runner import ModelRunner
from .aoti import Compiler, Whole
from .request import Request

logger = logging.getLogger("cudaspeed")


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
    runner = _as_it_is(descriptor, device, "fp32")
    for number, one in enumerate(engines):
        try:
            made = _made_by(one, request, runner, compiler, scratch / f"model.{number}")
        except Exception as error:  # they fail in every way there is, and are only tried
            logger.warning("%s is left out: %s", one.name, first_line(error))
            continue
        yield made


def asked_for(request: Request, descriptor: ImageModelDescriptor, compiler: Compiler, scratch: Path) -> Candidate:
    """What the engine that the request names makes of the model. Raises whatever stands against it."""
    device, asked = torch.device(request.device), engine(request.engine, Path(request.folder))
    lacks = asked.lacks(device)
    if lacks:
        raise CompileError(lacks)
    weights = weights_in(request.engine, request.mode.precision)
    return _made_by(asked, request, _as_it_is(descriptor, device, weights), compiler, scratch / "model")


def _as_it_is(descriptor: ImageModelDescriptor, device: torch.device, weights: Precision) -> ModelRunner:
    """By torch's own modules, in the usual layout: engines choose kernels and layouts themselves."""
    runner = ModelRunner(descriptor, ExecutionMode(weights, autocast=False, channels_last=False))
    runner.module.to(device)
    return runner


def _made_by(one: Engine, request: Request, runner: ModelRunner, compiler: Compiler, path: Path) -> Candidate:
    """What one engine makes of it, in a file. Raises whatever it raises, `CompileError` for a wrong result."""
    device = torch.device(request.device)
    work = Work(Whole(runner), compiler.example(), request.shapes, request.mode.precision, device, path.parent)
    one.build(work, path)
    forward = one.load(path, device)
    flaw = compiler.flaw(forward)
    if flaw:
        raise CompileError(f"its result is wrong: {flaw}")
    return Candidate(one.name, path, forward)
