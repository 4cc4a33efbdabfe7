"""What is kept for later runs: cleared from disk, let go of in memory."""

from __future__ import annotations

import logging
import re
import threading
import time
from pathlib import Path

import pytest
import zoo

from cudaspeed.api.options import UpscaleOptions
from cudaspeed.canvas import kept
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.models.execution import ExecutionMode
from cudaspeed.models.study import Ask, Study
from cudaspeed.pipeline.holdings import Holdings
from cudaspeed.pipeline.learner import Learner
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.storage.artifacts import ArtifactStore
from cudaspeed.upscale_engine import let_go, upscale

ID = "0123456789abcdef01234567"
PLAIN = UpscaleOptions(precision="fp32", compile=False)


def publish(folder: Path, entry: str = ID) -> ArtifactStore:
    store = ArtifactStore(folder)
    assert store.claim(entry, {"model": "toy"})
    made = folder / "made"
    made.write_bytes(b"x" * 1000)
    store.publish(entry, made, 1.0)
    return store


def test_compiled_models_are_counted_and_cleared() -> None:
    assert kept.compiled_models() == {"models": 0, "bytes": 0}
    store = publish(kept.cache_folder())
    assert kept.compiled_models() == {"models": 1, "bytes": 1000}
    assert kept.clear_compiled_models() == {"freed": 1000}
    assert kept.compiled_models() == {"models": 0, "bytes": 0}
    assert store.entries() == {}


def test_what_is_being_compiled_survives_a_clear() -> None:
    store = publish(kept.cache_folder())
    other = ID[::-1]
    assert store.claim(other, {"model": "another"})
    scratch = store.folder / "jobs" / "work"
    scratch.mkdir(parents=True)
    kept.clear_compiled_models()
    assert list(store.entries()) == [other] and scratch.exists()


def upscale_with(sessions: SessionCache, model, context=None) -> None:
    upscale(zoo.photograph(24, 24), model, PLAIN, context or StandaloneContext("cpu"), sessions)


def freed_by(sessions: SessionCache) -> list[str]:
    told: list[str] = []
    let_go(lambda freed: told.append(str(freed)), sessions)
    for _ in range(300):
        if told:
            break
        time.sleep(0.1)
    return told


def test_copies_of_models_are_let_go_of_and_counted() -> None:
    sessions = SessionCache()
    models = [zoo.compact(), zoo.esrgan()]
    for model in models:
        upscale_with(sessions, model)
    assert sessions.holdings().copies == 2
    (told,) = freed_by(sessions)
    assert re.fullmatch(r"2 copies of models \(\d+ MB on cpu\)", told), told
    assert sessions.holdings().copies == 0
    upscale_with(sessions, models[0])
    assert sessions.holdings().copies == 1, "they are made anew"


def test_nothing_is_told_at_once() -> None:
    assert freed_by(SessionCache()) == ["nothing"]


class Waiting(StandaloneContext):
    """Holds a run up where it tells its progress."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.there, self.go_on = threading.Event(), threading.Event()

    def progress(self, done: float, total: int) -> None:
        self.there.set()
        assert self.go_on.wait(60)


def test_a_run_in_progress_keeps_what_it_has_until_it_is_over() -> None:
    sessions, context, told = SessionCache(), Waiting(), []
    model = zoo.compact()
    upscale_with(sessions, model)
    run = threading.Thread(target=upscale_with, args=(sessions, model, context))
    run.start()
    assert context.there.wait(60)
    sessions.let_go(lambda: told.append(sessions.holdings().copies))
    assert not told and sessions.holdings().copies == 1
    context.go_on.set()
    run.join(60)
    assert told == [0]


class Steps:
    """Asks for the same forward again and again."""

    copies = 1

    def repaid(self, study: Study) -> bool:
        return True

    def first(self, study: Study) -> Ask:
        return Ask(ExecutionMode("fp32", False, False), zoo.photograph(8, 8))

    def step(self, study: Study, ask: Ask, give_way: object = None) -> Ask:
        return ask

    def release(self) -> None:
        self.copies = 0


def test_a_study_that_has_begun_is_left_with_its_copies() -> None:
    steps, model, learner = Steps(), zoo.compact(), Learner()
    subject = learner.subject(model.model, "here", lambda: steps, in_background=False)
    subject.offer([Study("one", 64, iter(()))], 1000)  # type: ignore[arg-type]
    subject.step()
    assert subject.has_work
    SessionCache(learner=learner).let_go(lambda: None)
    assert not subject.has_work and not steps.copies


def test_one_line_is_logged_of_what_was_freed(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = SessionCache()
    model = zoo.compact()
    upscale_with(sessions, model)
    monkeypatch.setattr(kept, "let_go", lambda tell: let_go(tell, sessions))
    monkeypatch.setattr(kept, "let_go_of_models", lambda: 0)  # of other tests' nodes
    with caplog.at_level(logging.INFO, "cudaspeed"):
        for _ in range(3):
            kept.unload()  # a page's user clicks more than once
        for _ in range(300):
            if caplog.records:
                break
            time.sleep(0.1)
        kept.unload()
    assert [record.getMessage() for record in caplog.records] == ["unloaded: 1 copy of a model (0 MB on cpu)"]


def test_unloading_that_failed_once_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def unwell(tell: object) -> None:
        raise RuntimeError("unwell")

    asked: list[object] = []
    monkeypatch.setattr(kept, "let_go", unwell)
    with pytest.raises(RuntimeError):
        kept.unload()
    monkeypatch.setattr(kept, "let_go", lambda tell: (asked.append(1), tell(Holdings())))
    kept.unload()
    assert asked
