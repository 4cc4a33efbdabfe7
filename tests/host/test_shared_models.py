"""Models that were loaded by name: of one file there is one, as long as somebody has it or it was used lately."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from pathlib import Path

import pytest
import zoo
from spandrel import ImageModelDescriptor

from cudaspeed.host.shared_models import SharedModels, bytes_of


class Loads:
    """Tells which files were loaded."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    def __call__(self, path: Path) -> ImageModelDescriptor:
        self.paths.append(path.name)
        return zoo.compact()


@pytest.fixture
def loads() -> Loads:
    return Loads()


def file(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).write_bytes(b"model")
    return tmp_path / name


def test_whoever_asks_for_a_file_gets_the_same_model_while_somebody_has_it(tmp_path: Path, loads: Loads) -> None:
    path, models = file(tmp_path, "a"), SharedModels(loads)
    model = models.get(path)
    assert models.get(path) is models.keep(path) is model
    models.let_go()
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None, "nobody has it"
    models.get(path)
    assert loads.paths == ["a", "a"]


def test_what_is_kept_is_not_read_again_until_it_is_let_go(tmp_path: Path, loads: Loads) -> None:
    path, models = file(tmp_path, "a"), SharedModels(loads)
    for _ in range(3):
        models.keep(path)
        gc.collect()
    assert loads.paths == ["a"]
    size = sum(weight.nbytes for weight in models.get(path).model.parameters())
    assert bytes_of(models.let_go()) == size > 0
    assert models.let_go() == []
    gc.collect()
    models.keep(path)
    assert loads.paths == ["a", "a"]


def test_another_file_of_the_name_is_another_model_and_the_old_one_goes_first(tmp_path: Path) -> None:
    path, old = file(tmp_path, "a"), []

    def load(path: Path) -> ImageModelDescriptor:
        gc.collect()
        assert all(model() is None for model in old), "two of it at a time"
        model = zoo.compact()
        old.append(weakref.ref(model))
        return model

    models = SharedModels(load)
    models.keep(path)
    os.utime(path, ns=(1, 1))
    models.keep(path)
    assert len(old) == 2


def test_few_are_kept_and_a_large_one_alone(tmp_path: Path, loads: Loads) -> None:
    a, b, c = (file(tmp_path, name) for name in "abc")
    models = SharedModels(loads, most_kept=2)
    for path in (a, b, a, c):
        models.keep(path)
        gc.collect()
    assert loads.paths == ["a", "b", "c"]
    models.keep(a)
    gc.collect()
    models.keep(b)
    assert loads.paths == ["a", "b", "c", "b"], "the one that was used longest ago went"
    small = SharedModels(Loads(), most_bytes=1)
    for path in (a, b):
        small.keep(path)
    gc.collect()
    assert bytes_of(small.let_go()) == sum(weight.nbytes for weight in zoo.compact().model.parameters())


def test_who_unloads_does_not_wait_for_a_file_that_is_read_and_that_one_is_not_kept(tmp_path: Path) -> None:
    """The host's server asks to unload on the thread that answers all of its pages."""
    a, b = file(tmp_path, "a"), file(tmp_path, "b")
    reading, goes_on = threading.Event(), threading.Event()

    def load(path: Path) -> ImageModelDescriptor:
        if path == b:
            reading.set()
            assert goes_on.wait(60)
        return zoo.compact()

    models = SharedModels(load)
    models.keep(a)
    prompt = threading.Thread(target=models.keep, args=(b,))
    prompt.start()
    assert reading.wait(60)
    freed: list[int] = []
    unload = threading.Thread(target=lambda: freed.append(bytes_of(models.let_go())))
    unload.start()
    unload.join(20)
    waited = unload.is_alive()
    goes_on.set()
    for thread in (prompt, unload):
        thread.join(60)
    assert not waited and freed[0] > 0
    assert models.let_go() == [], "it was asked for before the model was there"
