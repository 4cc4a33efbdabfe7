"""The process that compiles: a model's weights and a request in, a package in the store out. It imports no host.

It is started by job.py and watch.py, apart from the caller's process, so that whatever a compiler does (seconds of held
interpreter, crashes, flags), and whatever compiled code does when it is first loaded and called, happens here. The
result outlives whoever asked for it.

    weights -> spandrel -> copy -> aoti.Compiler: traced, compiled, checked against eager -> store
                                             other engines, each checked the same way -> if faster
                                             again, every kernel tried out (max_autotune) -> checked -> if faster
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from spandrel import ImageModelDescriptor

from ..api.errors import first_line
from ..api.model_info import Forward
from ..api.upstream import trust_the_processor
from ..backends.errors import CompileError
from ..backends.offer import engine, usable
from ..kernels import transformer_block, window_attention, winograd
from ..kernels.timing import reproduced, seconds_of_forward, taking_turns
from ..latents.loader import load_copied
from ..latents.model import LATENT
from ..models.loader import load_model
from ..models.runner import ModelRunner, architecture_of
from ..storage.artifacts import ArtifactStore, Usage
from ..storage.fingerprint import content_of
from .aoti import Compiler, load_package
from .errors import explain
from .others import Candidate, asked_for, others
from .request import Request

logger = logging.getLogger("cudaspeed")

_CLEARLY = 0.95  # of the usual result's time
_PATIENCE = 5.0  # seconds for kernels that are still being built


def main(request_file: str) -> None:
    """Compile what the file asks for and publish it, note how fast it is, and go on to what is faster still, if that
    can be made; note in the store why it failed, if it did, and whether timings left anything undecided."""
    logging.basicConfig(level=logging.INFO)
    scratch, began = Path(request_file).parent, time.perf_counter()
    request = Request.from_json(Path(request_file).read_text(encoding="utf-8"))
    store = ArtifactStore(Path(request.folder))
    undecided = False
    try:
        made = _published(request, store, scratch) if request.again else _compile(request, store, scratch)
    except Exception as error:  # compilers fail in every way there is; each is one line in the store
        logger.exception("compiling failed")
        if not request.again:
            _note_failure(request, store, error)
            return
    else:
        try:
            undecided = made is not None and _improve(request, store, scratch, made)
        except Exception:  # what is published is as good as before
            logger.exception("nothing better was compiled")
    store.searched(request.id, time.perf_counter() - began, undecided)


class _Made(NamedTuple):
    """What is `published`, and what else may be faster: what torch's own compiler makes with `options` and every kernel
    tried out, if it can compile the model; and `others`, from engines that were not asked yet."""

    descriptor: ImageModelDescriptor
    compiler: Compiler
    options: dict[str, Any] | None
    published: Candidate
    others: Iterator[Candidate]


def _compile(request: Request, store: ArtifactStore, scratch: Path) -> _Made | None:
    """What is known to be good, or what another engine makes where that fails, checked and published. None where that
    is by the engine that is asked for, and no other is. Raises whatever stands against it."""
    began = time.perf_counter()
    descriptor, compiler = _compiler(request)
    if request.engine:
        made = asked_for(request, descriptor, compiler, scratch)
        store.publish(request.id, made.path, time.perf_counter() - began, made.engine)
        return None
    more, options = others(request, descriptor, compiler, scratch), None
    try:
        forward, options = compiler.usual(scratch / "model.pt2")
        made = Candidate("", scratch / "model.pt2", forward)
    except Exception as error:  # where nothing else can compile it, this is what is told
        found = next(more, None)
        if found is None:
            raise
        made = found
        logger.warning("it is compiled by %s, as torch cannot: %s", made.engine, first_line(error))
    store.publish(request.id, made.path, time.perf_counter() - began, made.engine)
    return _Made(descriptor, compiler, options, made, more)


def _published(request: Request, store: ArtifactStore, scratch: Path) -> _Made:
    """What was published before. Raises whatever stands against it."""
    descriptor, compiler = _compiler(request)
    entry, copy = store.get(request.id), store.copy_of(request.id)
    if entry is None or copy is None:
        raise CompileError("what was compiled is no longer there")
    load = engine(entry.engine, Path(request.folder)).load if entry.engine else load_package
    with copy:
        made = Candidate(entry.engine, copy.path, load(copy.path, torch.device(request.device)))
    return _Made(descriptor, compiler, compiler.first_options(), made, others(request, descriptor, compiler, scratch))


def _compiler(request: Request) -> tuple[ImageModelDescriptor, Compiler]:
    """The model, and what compiles its forward in the mode that is asked for."""
    trust_the_processor()
    descriptor, device = _load(request), torch.device(request.device)
    runner = ModelRunner(descriptor, request.mode)
    runner.module.to(device)
    return descriptor, Compiler(runner, descriptor.input_channels, request.shapes, device)


def _note_failure(request: Request, store: ArtifactStore, error: Exception) -> None:
    scope, reason = explain(error)
    if scope == "environment" and usable(torch.device(request.device)):  # which may do better with another model
        scope = "model"
    if scope:
        store.fail(request.id, reason, scope, request.environment)
    else:
        store.release(request.id)


def _improve(request: Request, store: ArtifactStore, scratch: Path, made: _Made) -> bool:
    """See how fast that is, and publish what is clearly faster, if there is such. Whether the machine was too busy to
    say that of any. Raises whatever stands against it."""
    descriptor, compiler, options, best, more = made
    undecided = False
    eager, rate = _rates(request, descriptor, compiler, best.forward)
    if store.get(request.id):  # nobody has cleared it away
        store.note(request.id, {}, Usage(eager_rate=eager, compiled_rate=rate))
    for better in chain(more, _tuned(compiler, options, scratch / "tuned.pt2")):
        eager, before, rate = _rates(request, descriptor, compiler, best.forward, better.forward)
        undecided |= rate == 0
        if rate < _CLEARLY * before and store.improve(request.id, better.path, better.engine):
            store.note(request.id, {}, Usage(eager_rate=eager, compiled_rate=rate))
            best = better
    return undecided


def _tuned(compiler: Compiler, options: dict[str, Any] | None, target: Path) -> Iterator[Candidate]:
    """What torch compiled, with every kernel chosen by trying it out, where there are such."""
    tuned = None if options is None else compiler.tuned(options, target)
    if tuned:
        yield Candidate("", target, tuned.forward)


def _load(request: Request) -> ImageModelDescriptor:
    """The model of the request's weights, whose file goes. Raises `CompileError` when it is not the one asked for."""
    load = load_copied if request.architecture.startswith(LATENT) else load_model
    descriptor = load(Path(request.weights))
    Path(request.weights).unlink()  # as large as the model, and read
    if content_of(descriptor.model) != request.content or architecture_of(descriptor) != request.architecture:
        raise CompileError("spandrel makes another model of its weights than the one that is used")
    return descriptor


def _rates(request: Request, descriptor: ImageModelDescriptor, compiler: Compiler, *compiled: Forward) -> list[float]:
    """Seconds for a megapixel of input, in eager and in each of `compiled`; 0 where the machine is too busy to say.

    At low priority, but all in turn: what they are to each other is right."""
    kernels, folder, device = request.eager.kernels, Path(request.folder), torch.device(request.device)
    if kernels == "attention" and device.type == "cpu":
        window_attention.prepare(folder, _PATIENCE)
    if kernels == "winograd" and any(map(transformer_block.suits, descriptor.model.modules())):
        transformer_block.prepare(folder, _PATIENCE)  # eager does without them, too
    built = [kind.prepare(folder, _PATIENCE) for kind in (winograd, window_attention)] if kernels == "winograd" else []
    if not all(built):
        return [0.0] * (1 + len(compiled))
    eager = ModelRunner(descriptor, request.eager)
    eager.module.to(device)
    x = compiler.example()
    forwards = [eager.executor(device), *compiled]
    with torch.inference_mode():
        times = taking_turns([partial(seconds_of_forward, forward, x) for forward in forwards])
    megapixels = x.shape[0] * x.shape[2] * x.shape[3] / 1e6
    return [min(taken) / megapixels * all(map(reproduced, times)) for taken in times]
