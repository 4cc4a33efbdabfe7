"""Units whose bytes travel to workers that see nothing of the farm's folders."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stand_in_ray import Killed, StandInRay

from cudaspeed.api.errors import BadImageError, CudaspeedError
from cudaspeed.scaleout import farm, shipping
from cudaspeed.scaleout.actor import Folders, Split, Task, Work
from cudaspeed.scaleout.cluster import Cluster, FarmOptions
from cudaspeed.scaleout.crew import Crew
from cudaspeed.scaleout.farm import Farm
from cudaspeed.scaleout.manifest import Manifest, open_manifest
from cudaspeed.scaleout.shipping import ALL_AT_ONCE, ShippedModel, Shipper, ShippingWorker
from cudaspeed.scaleout.units import Listed, Unit

MADE_BY = {"model": "m"}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "worker").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "worker"))
    monkeypatch.setattr(farm, "_WAIT", 0.02)
    monkeypatch.setattr(farm, "_LEAST_FREE", 0)
    return tmp_path / "worker"


class Doubler:
    """Doubles texts; `died` of the one that says so, once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.died, self.models = folder, False, set[str]()

    def make(self, given: Mapping[str, Any]) -> Work:
        if given.get("model"):
            self.models.add(Path(given["model"]).read_text())
        return Work(self.run, MADE_BY)

    def run(self, task: Task) -> dict[str, Any] | Split:
        assert not task.source.is_relative_to(self.folder.parent / "in"), "the worker sees the farm's folder"
        assert task.unit.given[ALL_AT_ONCE]
        text = task.source.read_text()
        if text == "broken":
            raise BadImageError(f"{task.source} is broken")
        if text == "deadly" and not self.died:
            self.died = True
            raise Killed
        task.target.write_text(text * 2)
        return {"input": str(task.source), "megapixels": 1.0}


@contextmanager
def begun(tmp_path: Path, texts: dict[str, str], model: ShippedModel | None = None) -> Iterator[tuple]:
    (tmp_path / "in").mkdir()
    for name, text in texts.items():
        (tmp_path / "in" / name).write_text(text)
    doubler, output = Doubler(tmp_path / "out"), tmp_path / "out"
    with open_manifest(output) as manifest:
        manifest.merge([Listed(str(tmp_path / "in" / name), f"sub/{name}", "1") for name in texts])
        folders = Folders(str(output), str(manifest.parts), str(manifest.notes))
        cluster = Cluster(StandInRay(2), FarmOptions(ship=True))
        given = {"model": "here/m.pth"}
        crew = Crew(cluster, (doubler.make, given if model else {}, model), MADE_BY, Shipper(folders))
        yield manifest, Farm(manifest, crew, lambda _: None), doubler


def results(tmp_path: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (tmp_path / "out" / "sub").iterdir()}


def outcomes(manifest: Manifest) -> dict[str, dict[str, Any]]:
    return {Path(told["source"]).name: told for told in manifest.outcomes()}


def test_bytes_go_and_come_and_workers_see_no_folder_of_the_farm(tmp_path: Path, own_folder: Path) -> None:
    texts = {f"{number}.txt": str(number) for number in range(20)} | {"bad.txt": "broken", "kills.txt": "deadly"}
    content = b"the weights"
    model = ShippedModel("m.pth", content, hashlib.sha256(content).hexdigest())
    with begun(tmp_path, texts, model) as (manifest, work, doubler):
        work.run()
        assert manifest.counts() == {"waiting": 0, "done": 21, "failed": 1}
        told = outcomes(manifest)
        assert [*manifest.parts.iterdir()] == [*manifest.notes.iterdir()] == []
    assert doubler.models == {"the weights"}
    assert results(tmp_path) == {name: text * 2 for name, text in texts.items() if text != "broken"}
    assert told["bad.txt"]["error"] == f"{tmp_path / 'in' / 'bad.txt'} is broken"
    assert told["1.txt"]["record"]["input"] == str(tmp_path / "in/1.txt")
    assert told["1.txt"]["record"]["output"] == str(tmp_path / "out/sub/1.txt")
    assert told["1.txt"]["record"]["model"] == "here/m.pth"
    assert not [*own_folder.rglob("*.txt")], "nothing is left at workers"


def test_what_is_too_large_or_gone_is_set_aside_and_the_rest_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "MOST_BYTES", 5)
    with begun(tmp_path, {"a.txt": "1", "b.txt": "123456", "c.txt": "3"}) as (manifest, work, _):
        (tmp_path / "in/c.txt").unlink()
        work.run()
        assert manifest.counts() == {"waiting": 0, "done": 1, "failed": 2}
        told = outcomes(manifest)
    assert "at most 0 are shipped; share its folder" in told["b.txt"]["error"]
    assert "c.txt: cannot be read: No such file" in told["c.txt"]["error"]


def test_a_model_that_was_damaged_on_its_way_is_not_used(tmp_path: Path) -> None:
    good = ShippedModel.read(_file(tmp_path, b"weights"))
    assert good.write(tmp_path / "worker").read_bytes() == b"weights"
    with pytest.raises(CudaspeedError, match=r"model m\.pth was damaged on its way: SHA-256 [0-9a-f]{64}, not"):
        replace(good, content=b"weightz").write(tmp_path / "worker")


def test_no_room_for_a_result_is_no_fault_of_the_unit(tmp_path: Path) -> None:
    blocked = tmp_path / "out"
    blocked.write_text("a file where the folder should be")
    shipper = Shipper(Folders(str(blocked), str(tmp_path), str(tmp_path)))
    unit = Unit(1, "in/a.txt", "a.txt", "1")
    outcome = shipper.unpack(unit, shipping.Shipped(shipping.Outcome(1, "1"), b"result"))
    assert outcome.error and outcome.again and not outcome.record
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["out"]


def test_what_a_killed_worker_left_goes_with_the_next(own_folder: Path) -> None:
    left = own_folder / "cudaspeed-farm-999999999-abc"
    left.mkdir()
    (left / "picture.png").write_text("x")
    alive = own_folder / f"cudaspeed-farm-{os.getpid()}-abc"
    alive.mkdir()
    ShippingWorker(lambda given: Work(lambda task: {}, MADE_BY), {}, None)
    assert not left.exists()
    assert alive.exists()


def _file(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "m.pth"
    path.write_bytes(content)
    return path
