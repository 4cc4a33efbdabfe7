"""Compiled forwards, by model content, mode, device and tile shapes: looked up, made when that pays, checked.

A compile takes a minute once, and saves a share of every later forward. `compiling/policy.py` says when it is repaid;
until then, while it is made, and whenever anything about it fails, the eager forward gives the picture. What was
compiled lies in the store (storage/artifacts.py) and is there after a restart.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from spandrel import ImageModelDescriptor
from torch import Tensor, nn

from .api.context import RunContext
from .api.errors import first_line
from .api.model_info import Forward, ModelInfo
from .api.options import Precision
from .backends.errors import DeviceFullError
from .backends.offer import bytes_held, devices_at_once, engine, takes_one_size, tiles_at_once
from .backends.shapes import TileShapes
from .compiling.aoti import check_unpacking, load_package
from .compiling.errors import explain
from .compiling.executor import CompiledExecutor
from .compiling.exported import take_exported
from .compiling.job import CompileJob
from .compiling.model_entries import ModelEntries, Subject, is_fresh
from .compiling.policy import MOST_SHAPES, BestTime, breaks_even, compilable_shapes, longest_side
from .compiling.request import Request
from .models.execution import Executor
from .models.exported import exported_of
from .models.runner import ModelRunner, architecture_of
from .storage.artifacts import ArtifactStore, Entry, Usage
from .storage.fingerprint import content_of
from .storage.ownership import NotOwnError
from .storage.scratch import scratch_folder

logger = logging.getLogger("cudaspeed")

_LEAST_LIMIT = 1800.0  # seconds that a compile may take: at low priority beside other work they pass quickly
_NOTED_AGAIN = 10.0  # seconds after which what runs have seen is written down again
_ASKED_AGAIN = 0.2  # seconds between two looks at a compile that is waited for

StartJob = Callable[[ArtifactStore, Request, nn.Module, Path], CompileJob]


class CompileCache:
    """The process's compiles: one store per folder, one compile at a time."""

    def __init__(self, start: StartJob = CompileJob) -> None:
        self._stores: dict[Path, ArtifactStore] = {}
        self.start_job = start
        self.job: CompileJob | None = None
        self.gave_up: set[str] = set()  # for want of memory: not tried again by this process, but by the next

    def busy(self) -> bool:
        """Whether a compile of ours is running; sees to what has ended."""
        if self.job and not self.job.running():
            if self.job.without_result:
                self.gave_up.add(self.job.id)
            self.job = None
        return self.job is not None

    def at_work(self) -> bool:
        """Whether a compile of ours is running whose result is not there yet."""
        return self.busy() and self.job is not None and not self.job.published

    def stop(self) -> None:
        """End our running compile, if there is one; it may be started again."""
        if self.job:
            self.job.stop()
            self.job = None

    def forwards_of(
        self,
        runner: ModelRunner,
        descriptor: ImageModelDescriptor,
        info: ModelInfo,
        context: RunContext,
        since: float = math.inf,
    ) -> CompiledForwards:
        """What is compiled of `runner`, a copy of `descriptor`'s module, on the context's device; kept with it. The
        weights are those that the module has had `since` a time by `time.monotonic`; if that is not said, as it has
        now."""
        place = f"{context.switches.engine or context.device} {context.cache_folder}"
        if place not in runner.compiled:
            content = content_of(descriptor.model, min(since, time.monotonic()))
            architecture, exported = architecture_of(descriptor), exported_of(descriptor.model)
            subject = Subject(weakref.ref(descriptor.model), info, architecture, content, exported)
            store = self._stores.setdefault(context.cache_folder, ArtifactStore(context.cache_folder))
            runner.compiled[place] = CompiledForwards(self, store, runner, subject, context)
        return runner.compiled[place]


class CompiledForwards:
    """The compiled forwards of one runner on one device."""

    def __init__(
        self,
        cache: CompileCache,
        store: ArtifactStore,
        runner: ModelRunner,
        subject: Subject,
        context: RunContext,
    ) -> None:
        self._cache, self._store, self._subject, self._device = cache, store, subject, context.device
        self._known = ModelEntries(store, subject, runner.mode, context.device, context.switches.engine)
        self.info, self.mode = subject.info, runner.mode
        self.precision: Precision = runner.mode.precision
        self.eager: Forward = runner.forward
        self._loaded: dict[TileShapes, CompiledExecutor] = {}
        self._refused: dict[TileShapes, str] = {}
        # what it takes to compile more than came with the model
        self._lacks = engine(self._known.engine, store.folder).lacks(context.device) if self._known.exported else ""
        self._unusable = take_exported(store, self._known, subject)  # why what came with the model is not used
        if self._unusable and not self._lacks:  # else that is an error
            logger.warning("%s; the model is compiled anew", self._unusable)
        self._unloadable = ""  # the hash of what is better than what is loaded, but has no room beside it
        self._eager_seconds = 0.0
        self._noted: tuple[float, dict[TileShapes, tuple[bool, str]]] = -math.inf, {}
        self._times: dict[TileShapes | None, BestTime] = {}

    # --- what there is -------------------------------------------------------------------------------------------

    def ready(self) -> dict[TileShapes, float]:
        """The tile shapes that can run compiled now, and what a pixel costs so, eager being 1."""
        self._cache.busy()
        return {shapes: cost for shapes, cost in self._known.ready().items() if shapes not in self._refused}

    def told(self) -> list[str]:
        """What is ready, each with its bytes and what a pixel costs so: all that it changes in a run."""
        entries, ready = self._known.by_shapes(), self.ready()
        return sorted(f"{shapes} {entries[shapes].sha256[:8]} at {cost:.2f}" for shapes, cost in ready.items())

    def take(self, x: Tensor) -> CompiledExecutor | None:
        """What runs the tile batch `x` compiled, loaded now if need be, or None."""
        ready = self.ready()
        for shapes in sorted(ready, key=ready.__getitem__):
            if shapes.fit(x.shape):
                loaded = self._load(shapes)
                if loaded:
                    return loaded
        return None

    def check(self, x: Tensor) -> bool:
        """Whether the tile batch `x` runs compiled: there is a forward for it that agrees with the eager one."""
        executor = self.take(x)
        if executor is not None and not executor.checked:
            executor(x)
        return executor is not None and executor.mode.backend == "compiled"

    def longest_side(self, overlap: int) -> int | None:
        """Of tiles to compile for, that share so many pixels (`overlap`); None: as long as suits the picture."""
        if not takes_one_size(self._known.engine):
            return None
        return longest_side(_in_use(self._known.by_shapes()), self.info, overlap)

    def possible(self, tile: tuple[int, int]) -> dict[TileShapes, float]:
        """What could be compiled for tiles of (height, width), and what a pixel may be expected to cost then.

        None where this machine lacks something for compiling, where the model failed at it, or where as much as is good
        for one model is there. What fails for its shapes alone leaves others their chance; what is there does not: a
        forward for any size that gained little here would gain no more for one.
        """
        entries = self._known.by_shapes()
        if _in_use(entries) >= MOST_SHAPES or self._refused or self._lacks or self._known.failure(entries):
            return {}
        for shapes in self._compilable(tile):
            known = entries.get(shapes)
            if not self._known.has_failed(known) and self._known.id_of(shapes) not in self._cache.gave_up:
                there = known is not None and known.state in ("compiling", "ready")
                return {} if there else {shapes: self._known.expected_cost()}
        return {}

    @property
    def came_compiled(self) -> bool:
        """Whether a program came with the model, and can be used."""
        return self._known.exported_shapes in self.ready()

    @property
    def at_once(self) -> int:
        """How many tiles there should be at least, so that all devices have something to do."""
        return devices_at_once(self._known.engine)

    @property
    def loaded(self) -> int:
        """How many of them are loaded."""
        return len(self._loaded)

    @property
    def bytes_loaded(self) -> int:
        """Of memory where they compute, by those that are loaded."""
        return sum(executor.bytes_held for executor in self._loaded.values())

    def bytes_held(self, shape: Sequence[int]) -> int:
        """The same, with what a tile batch of `shape` [N, C, h, w] is going to be computed by, if that is compiled."""
        ready, entries = self.ready(), self._known.by_shapes()
        fit = sorted((shapes for shapes in ready if shapes.fit(shape)), key=ready.__getitem__)[:1]
        more = [entries[shapes] for shapes in fit if shapes not in self._loaded]
        return self.bytes_loaded + sum(bytes_held(entry.engine, entry.bytes) for entry in more)

    def release(self) -> None:
        """Forget what is loaded; it is loaded anew when it is wanted."""
        for executor in self._loaded.values():
            executor.release()
        self._loaded.clear()

    # --- making more ---------------------------------------------------------------------------------------------

    def pays(self, pixels_ahead: int) -> bool:
        """Whether compiling is repaid by the eager work behind, in all runs, and what is ahead in this one.

        What earlier compiles of this model cost has to be repaid, too.
        """
        if self._known.engine:
            return True
        entry, expected = self._store.get(self._known.id), self._known.expectation()
        spent = (entry.eager_seconds if entry else 0.0) + self._eager_seconds
        paid = sum(made.compile_seconds for made in self._known.by_shapes().values()) / max(expected.share_saved, 1e-3)
        return breaks_even(spent - paid + self._rate(None) * pixels_ahead / 1e6, expected)

    def start(self, shapes: TileShapes) -> bool:
        """Start compiling in the background, instead of improving what is compiled. False when something else is being
        compiled, or it cannot be started."""
        if self._cache.at_work() or self.compiling():
            return False
        if self._known.has_failed(self._known.by_shapes().get(shapes)):  # just now: ours died since it was asked
            return False
        try:
            return self._start(shapes)
        except NotOwnError as error:  # the store has said so
            self._refused[shapes] = first_line(error)
            return False
        except Exception as error:  # no room, no permission, no process, strange weights: none is worth a picture
            self.refuse(shapes, f"it cannot be compiled: {first_line(error)}", lasting=False)
            return False

    def look_again(self, affordable: float) -> float:
        """Look once more, in the background, for what is faster than what is ready: where the machine was too busy to
        say, or there was no time to. The seconds that this may take, at most those that are `affordable`; 0 where
        nothing is left to be said, or it cannot be now."""
        if self._cache.busy() or self._known.engine:
            return 0.0
        for shapes, entry in self._known.by_shapes().items():
            seconds = entry.search_seconds or entry.compile_seconds
            if entry.undecided and 0 < seconds <= affordable and shapes not in self._refused:
                try:
                    return seconds * self._start(shapes, again=True)
                except Exception as error:  # as where one starts; what is ready is as good as before
                    logger.debug("nothing faster is looked for: %s", first_line(error))
        return 0.0

    def compiling(self) -> TileShapes | None:
        """The shapes being compiled now, in this process or another."""
        return self._known.compiling()

    def wait(self, context: RunContext) -> None:
        """Until nothing of ours is being compiled, nor this model by anyone; what is only being improved is not waited
        for. An interrupt ends our compile."""
        if not (self._cache.at_work() or self.compiling()):
            return
        usual = f"which takes about {self._known.expectation().compile_seconds:.0f} s"
        try:
            while self._cache.at_work() or self.compiling():
                context.raise_if_interrupted()
                shapes = self.compiling()
                context.say(f"compiling for {shapes}, {usual}" if shapes else "waiting for another model's compile")
                time.sleep(_ASKED_AGAIN)
        except BaseException:  # an interrupt, of whatever kind the host's is
            self._cache.stop()
            raise
        finally:
            context.say("")

    def refuse(self, shapes: TileShapes, reason: str, lasting: bool) -> None:
        """Go on without: in this process, and, where `lasting`, until something changes."""
        logger.warning("%s goes on uncompiled: %s", self._known.what["model"], reason)
        self._refused[shapes] = reason
        self._loaded.pop(shapes, None)
        if lasting:
            try:
                self._store.fail(self._known.id_of(shapes), reason, "model", self._known.environment)
            except OSError as error:
                logger.debug("cannot note that: %s", error)

    # --- what it cost --------------------------------------------------------------------------------------------

    def note(self, executor: Executor, pixels: int, seconds: float) -> None:
        """A batch of `pixels` input pixels went through `executor` in so many seconds."""
        shapes = None
        if isinstance(executor, CompiledExecutor) and executor.mode.backend == "compiled":
            shapes = executor.shapes
        if shapes is None:
            self._eager_seconds += seconds
        self._times.setdefault(shapes, BestTime()).add(seconds, pixels / 1e6)

    def save(self) -> None:
        """What this run has seen goes into the index; the next one's takes it along where runs are short, since writing
        to the disk takes longer than small pictures do. Of a process that ends, the last seconds' work is not kept."""
        files = {shapes: (loaded.checked, loaded.sha256) for shapes, loaded in self._loaded.items()}
        if files == self._noted[1] and time.monotonic() - self._noted[0] < _NOTED_AGAIN:
            return
        eager = self._rate(None)
        if self._eager_seconds:
            usage = Usage(eager_seconds=self._eager_seconds, eager_rate=eager)
            self._store.note(self._known.id, self._known.what, usage)
        self._eager_seconds = 0.0
        for shapes, (checked, sha256) in files.items():
            both = bool(eager and self._rate(shapes)) and self._known.says_otherwise(shapes, self._rate(shapes) / eager)
            usage = Usage(0.0, eager * both, self._rate(shapes) * both, checked, sha256)
            self._store.note(self._known.id_of(shapes), self._known.what_of(shapes), usage)
        self._noted = time.monotonic(), files

    def failure(self) -> str | None:
        """Why it is not compiled, as far as that is known."""
        self._cache.busy()  # why one died that just did is not noted before this
        refused = next(iter(self._refused.values()), None)
        failed = refused or self._known.failure(self._known.by_shapes(), any_scope=True)
        if not failed and self.came_compiled:
            shapes = self._known.exported_shapes
            return f"the program that came with it takes {shapes}, which this picture is not cut into"
        return failed or self._unusable or self._lacks or None

    def status(self, used: bool) -> str:
        """Where compiling stands, in a few words."""
        shapes = self.compiling()
        told = self.failure()
        if used or not shapes:
            entries = self._known.by_shapes()
            if not told and not self.ready() and any(entry.state == "ready" for entry in entries.values()):
                told = "what was compiled is slower here"
            if used:
                return self._computed_by()
            return f"eager: {told}" if told else "eager: compiling would not pay yet"
        return f"compiling for {shapes} in the background, eager meanwhile"

    # --- details -------------------------------------------------------------------------------------------------

    def _computed_by(self) -> str:
        """ "compiled", and by which engines what is loaded was, where these are others than torch's own."""
        engines = {executor.engine for executor in self._loaded.values()} - {""}
        return f"compiled by {' and '.join(sorted(engines))}" if engines else "compiled"

    def _compilable(self, tile: tuple[int, int]) -> Iterator[TileShapes]:
        """What to compile for, best first."""
        name = self._known.engine
        one_size_only = takes_one_size(name)
        for shapes in compilable_shapes(self.info, tile, one_size_only):
            yield replace(shapes, batch=tiles_at_once(name, shapes.most)) if one_size_only else shapes

    def _rate(self, shapes: TileShapes | None) -> float:
        """Seconds per megapixel of this process's batches, eager for None; 0 until there were enough."""
        return self._times[shapes].rate if shapes in self._times else 0.0

    def _load(self, shapes: TileShapes) -> CompiledExecutor | None:
        entry, loaded = self._store.get(self._known.id_of(shapes)), self._loaded.get(shapes)
        if loaded and (entry is None or entry.sha256 in ("", loaded.sha256, self._unloadable)):
            return loaded
        copy = self._store.copy_of(self._known.id_of(shapes))
        if entry is None or copy is None:  # it was damaged and is gone, or the store cannot be used just now
            return loaded
        try:
            with copy:
                if copy.sha256 != entry.sha256:  # it was improved meanwhile: the next batch asks again
                    return loaded
                load = engine(entry.engine, self._store.folder).load if entry.engine else load_package
                forward = load(copy.path, self._device)
            self._loaded[shapes] = CompiledExecutor(self, shapes, forward, entry)
            self._times.pop(shapes, None)  # they were another's, which was improved
        except DeviceFullError:
            raise
        except Exception as error:  # a package of another torch, a library that is missing
            lasting = explain(error)[0] == "model"  # else it may pass: memory or disk are full
            if loaded and not lasting:
                logger.debug("what was improved is not loaded: %s", first_line(error))
                self._unloadable = entry.sha256
                return loaded
            self.refuse(shapes, f"what was compiled cannot be loaded ({first_line(error)})", lasting)
            return None
        return self._loaded[shapes]

    def _start(self, shapes: TileShapes, again: bool = False) -> bool:
        check_unpacking()
        name, module = self._known.id_of(shapes), self._subject.module()
        if module is None:
            return False
        if not (self._store.search(name) if again else self._store.claim(name, self._known.what_of(shapes))):
            return False
        limit = max(_LEAST_LIMIT, 10 * self._known.expectation().compile_seconds)
        with ExitStack() as undo:
            undo.callback(self._store.release, name)
            scratch = scratch_folder(self._store.folder)
            undo.callback(shutil.rmtree, scratch, ignore_errors=True)
            request = Request(
                id=name,
                folder=str(self._store.folder),
                weights=str(scratch / "weights.safetensors"),
                content=self._subject.content,
                architecture=self._subject.architecture,
                mode=self._known.mode,
                eager=self.mode,
                shapes=shapes,
                device=str(self._device),
                environment=self._known.environment,
                limit=limit,
                again=again,
                engine=self._known.engine,
            )
            self._cache.stop()  # what only improves gives way
            self._cache.job = self._cache.start_job(self._store, request, module, scratch)
            undo.pop_all()
        doing = "looking for faster code of" if again else "compiling"
        logger.info("%s %s for %s in the background", doing, self._known.what["model"], shapes)
        return True


def _in_use(entries: Mapping[TileShapes, Entry]) -> int:
    """Of how many shapes there is something, or was tried, that was used of late."""
    return sum(entry.state in ("ready", "failed") and is_fresh(entry) for entry in entries.values())
