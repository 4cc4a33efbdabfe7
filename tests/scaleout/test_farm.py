"""A farm by a stand-in for Ray: units come out once, whoever dies on the way."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from stand_in_ray import Killed, StandInRay

from cudaspeed.api.errors import BadImageError, BadOptionError, OutputError
from cudaspeed.scaleout import farm
from cudaspeed.scaleout.actor import Folders, Split, Task, Work, Worker
from cudaspeed.scaleout.cluster import Cluster, FarmOptions
from cudaspeed.scaleout.crew import Crew, FarmError
from cudaspeed.scaleout.farm import Farm
from cudaspeed.scaleout.manifest import Manifest, ManifestBusyError, open_manifest
from cudaspeed.scaleout.units import WHOLE, Listed, Outcome, Part, Unit

MADE_BY = {"cudaspeed": "1", "model": "m"}


class Toy:
    """Copies texts; `calls` are the names that were asked for, of all workers. A text that says so breaks something."""

    def __init__(self, folder: Path, made_by: dict[str, str] = MADE_BY) -> None:
        self.folder, self.made_by, self.calls = folder, made_by, []
        self.parts: list[str] = []
        self.broken_join = False
        self.ends: dict[str, int] = {}  # by name, how often its worker is killed by it

    def make(self, *_: object) -> Work:
        return Work(self.run, self.made_by)

    def run(self, task: Task) -> dict[str, Any] | Split:
        source, target = task.source, task.target
        self.calls.append(source.name)
        if self.ends.get(source.name, 0):
            self.ends[source.name] -= 1
            target.write_text("half")
            raise Killed
        text = source.read_text()
        if text.startswith("long "):
            return self.in_parts(task, text)
        if text == "no picture":
            raise BadImageError("this is no picture")
        if text == "breaks":
            raise RuntimeError("it breaks")
        if text == "full":
            raise OutputError("no room") from OSError(28, "No space left on device")
        target.write_text(text * 2)
        return {"megapixels": 1.0}

    def in_parts(self, task: Task, text: str) -> dict[str, Any] | Split:
        """A text of several words, each of which is a part."""
        words = text.split()[1:]
        if task.unit.part != WHOLE:
            word = words[task.unit.part]
            self.parts.append(word)
            if word == "wrong":
                raise BadImageError("this word is wrong")
            if self.ends.pop(word, 0):
                raise Killed
            task.target.with_suffix(".word").write_text(word * task.unit.given["times"])
            task.target.write_text("there")
            return {}
        if not task.unit.given:
            parts = tuple(Part(number, f"{number}.part", {"times": 2}) for number in range(len(words)))
            return Split(parts, {"words": len(words)})
        if self.broken_join:
            raise BadImageError("they do not fit")
        found = [(task.together / f"{number}.word").read_text() for number in range(task.unit.given["words"])]
        task.target.write_text(" ".join(found))
        return {}

    def units(self, texts: dict[str, str]) -> list[Listed]:
        for name, text in texts.items():
            (self.folder / name).write_text(text)
        return [Listed(str(self.folder / name), f"sub/{name}", "1") for name in texts]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farm, "_WAIT", 0.02)
    monkeypatch.setattr(farm, "_LEAST_FREE", 0)


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    (tmp_path / "in").mkdir()
    return Toy(tmp_path / "in")


@contextmanager
def begun(
    toy: Toy, texts: dict[str, str], cpus: int = 2, alike: bool = False
) -> Iterator[tuple[Manifest, Farm, StandInRay]]:
    ray, shown = StandInRay(cpus), []
    output = toy.folder.parent / "out"
    with open_manifest(output) as manifest:
        manifest.merge(toy.units(texts))
        arguments = (toy.make, {}, Folders(str(output), str(manifest.parts), str(manifest.notes)))
        workers = Crew(Cluster(ray, FarmOptions()), arguments, MADE_BY, alike=alike)
        yield manifest, Farm(manifest, workers, shown.append), ray


def numbered(count: int) -> dict[str, str]:
    return {f"{number:03}.txt": str(number) for number in range(count)}


def results(toy: Toy) -> dict[str, str]:
    return {path.name: path.read_text() for path in (toy.folder.parent / "out" / "sub").iterdir()}


def test_all_is_done_once_and_nothing_else_is_left_in_the_folder(toy: Toy) -> None:
    with begun(toy, numbered(50)) as (manifest, work, ray):
        work.run()
        assert manifest.counts() == {"waiting": 0, "done": 50, "failed": 0}
        progress = work.progress()
        assert (progress.done, progress.failed, progress.total, progress.seconds_left) == (50, 0, 50, 0.0)
        assert len(ray.hired) == len(ray.killed) == 2
        assert [*manifest.parts.iterdir()] == []
    assert sorted(toy.calls) == sorted(numbered(50))
    assert results(toy) == {name: text * 2 for name, text in numbered(50).items()}
    assert sorted(path.name for path in (toy.folder.parent / "out").iterdir()) == [".farm", "sub"]
    assert [*(toy.folder.parent / "out" / ".farm" / "done").iterdir()] == []


def test_what_is_done_is_not_done_again(toy: Toy) -> None:
    with begun(toy, numbered(10)) as (_, work, _ray):
        work.run()
    toy.calls.clear()
    with begun(toy, numbered(13)) as (_, work, _ray):
        work.run()
    assert sorted(toy.calls) == ["010.txt", "011.txt", "012.txt"]


def test_a_unit_that_kills_its_worker_twice_is_set_aside_and_the_others_are_done(toy: Toy) -> None:
    toy.ends = {"007.txt": 9}
    with begun(toy, numbered(20)) as (manifest, work, _):
        work.run()
        assert manifest.counts() == {"waiting": 0, "done": 19, "failed": 1}
        (told,) = manifest.outcomes("failed")
    assert told["error"].endswith("007.txt: the worker that was at it died (it was killed)")
    assert told["tries"] == 2 and toy.calls.count("007.txt") == 2
    assert "007.txt" not in results(toy)


def test_a_worker_that_dies_costs_its_unit_one_more_try_only(toy: Toy) -> None:
    toy.ends = {f"{number:03}.txt": 1 for number in range(0, 40, 8)}
    with begun(toy, numbered(40)) as (manifest, work, ray):
        work.run()
        tries = {Path(told["source"]).name: told["tries"] for told in manifest.outcomes("done")}
        assert tries == {name: 1 + (int(text) % 8 == 0) for name, text in numbered(40).items()}
        assert len(ray.hired) == 2 + 5
    assert sorted(toy.calls) == sorted([*numbered(40), *toy.ends])
    assert results(toy) == {name: text * 2 for name, text in numbered(40).items()}


def test_workers_that_only_die_end_the_farm_and_nothing_is_lost(toy: Toy) -> None:
    toy.ends = dict.fromkeys(numbered(60), 9)
    with begun(toy, numbered(60)) as (manifest, work, _):
        with pytest.raises(FarmError, match="workers die: it was killed"):
            work.run()
        assert manifest.counts()["waiting"] > 30


@pytest.mark.parametrize(
    ("text", "calls", "told"),
    [("no picture", 1, "a.txt: this is no picture"), ("breaks", 2, "a.txt: RuntimeError: it breaks")],
)
def test_what_fails_is_set_aside_with_its_reason(text: str, calls: int, told: str, toy: Toy) -> None:
    with begun(toy, {"a.txt": text, **numbered(5)}) as (manifest, work, _):
        work.run()
        assert manifest.counts() == {"waiting": 0, "done": 5, "failed": 1}
        assert next(manifest.outcomes("failed"))["error"].endswith(told)
        assert toy.calls.count("a.txt") == calls
        manifest.try_again()
    (toy.folder / "a.txt").write_text("fine")
    with begun(toy, {"a.txt": "fine"}) as (manifest, work, _):
        work.run()
        assert manifest.counts()["failed"] == 0
    assert results(toy)["a.txt"] == "finefine"


def test_a_worker_that_only_fails_is_replaced_and_its_units_are_done_by_others(toy: Toy) -> None:
    made: list[int] = []

    def make(*_: object) -> Work:
        made.append(len(made))
        return Work(breaks if made[-1] == 0 else toy.run, MADE_BY)

    def breaks(source: Path, target: Path) -> dict[str, Any]:
        raise RuntimeError("an illegal memory access")

    toy.make = make  # type: ignore[method-assign]
    with begun(toy, numbered(40)) as (manifest, work, ray):
        work.run()
        assert manifest.counts() == {"waiting": 0, "done": 40, "failed": 0}
        assert len(ray.hired) == 3


def test_what_a_lost_worker_had_finished_is_not_done_again(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    do, ends = Worker.do, ["003.txt"]

    def dies_behind(worker: Worker, unit: Unit) -> Outcome:
        outcome = do(worker, unit)
        if Path(unit.source).name in ends:
            ends.clear()
            raise Killed
        return outcome

    monkeypatch.setattr(Worker, "do", dies_behind)
    with begun(toy, numbered(8)) as (manifest, work, _):
        work.run()
        assert manifest.counts()["done"] == 8
    assert toy.calls.count("003.txt") == 1


def test_what_a_killed_worker_left_of_a_result_is_cleared_away(toy: Toy) -> None:
    with begun(toy, numbered(3)) as (manifest, work, _):
        (manifest.parts / "1-left").mkdir()
        (manifest.parts / "1-left" / "half.txt").write_text("half")
        work.run()
        assert [*manifest.parts.iterdir()] == []


def test_a_manifest_that_somebody_reads_for_long_is_written_later(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farm, "_EVERY", 0.0)
    settle, locks = Manifest.settle, iter([True] * 3)

    def locked_at_first(manifest: Manifest, outcomes: list[Outcome]) -> None:
        if outcomes and next(locks, False):
            raise ManifestBusyError("database is locked")
        settle(manifest, outcomes)

    monkeypatch.setattr(Manifest, "settle", locked_at_first)
    with begun(toy, numbered(30)) as (manifest, work, _):
        work.run()
        assert (manifest.counts()["done"], work.stopped) == (30, "")


def test_a_full_disk_stops_the_farm_and_sets_nothing_aside(toy: Toy) -> None:
    with begun(toy, {**numbered(4), "x.txt": "full", **{f"y{i}": "." for i in range(50)}}) as (manifest, work, _):
        work.run()
        assert "no room" in work.stopped
        assert manifest.counts()["failed"] == 0 and manifest.counts()["waiting"] > 40


def test_no_unit_is_given_while_there_is_little_room(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farm, "_LEAST_FREE", 1 << 30)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5e8))
    with begun(toy, numbered(3)) as (manifest, work, _):
        work.run()
        assert work.stopped.startswith("only 0.50 GB are free in ")
        assert manifest.counts()["waiting"] == 3
    assert toy.calls == []


def test_a_worker_whose_results_would_differ_is_refused_by_name(toy: Toy) -> None:
    toy.made_by = {"cudaspeed": "2", "model": "m"}
    with begun(toy, numbered(3)) as (manifest, work, _):
        with pytest.raises(FarmError, match="is refused, its results would differ: cudaspeed 2 there, 1 here"):
            work.run()
        assert manifest.counts()["waiting"] == 3


@pytest.mark.parametrize("alike", [True, False])
def test_where_parts_are_put_together_all_compute_on_the_first_ones_kind_of_device(
    alike: bool, toy: Toy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    devices, used = ["cpu", "cuda"], set()

    def make(*_: object) -> Work:
        device = devices.pop(0)

        def run(task: Task) -> dict[str, Any] | Split:
            used.add(device)
            until = time.monotonic() + 30
            while len(used) < 2 and "is refused" not in caplog.text and time.monotonic() < until:
                time.sleep(0.01)
            return toy.run(task)

        return Work(run, MADE_BY, device)

    monkeypatch.setattr(toy, "make", make)
    with begun(toy, numbered(9), alike=alike) as (manifest, work, _):
        work.run()
        assert manifest.counts()["done"] == 9
    assert len(used) == (1 if alike else 2)
    refused = re.findall(
        r"is refused: it computes on (\w+), the first one on (\w+), and parts of one film", caplog.text
    )
    assert [sorted(pair) for pair in refused] == ([["cpu", "cuda"]] if alike else [])


def test_a_worker_that_cannot_begin_says_why(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> Work:
        raise ValueError("the device is not there")

    monkeypatch.setattr(toy, "make", fails)
    with begun(toy, numbered(3)) as (_, work, _ray), pytest.raises(FarmError, match="the device is not there"):
        work.run()


def test_no_place_for_a_worker_is_told(toy: Toy) -> None:
    with (
        begun(toy, numbered(3), cpus=0) as (_, work, _ray),
        pytest.raises(FarmError, match="there is no room for a worker: Ray has 0 processors and 0 GPUs"),
    ):
        work.run()


def test_what_is_done_in_parts_is_put_together_by_who_is_free_when_all_are_done(toy: Toy) -> None:
    texts = {**numbered(4), "film.txt": "long a b c d e", "other.txt": "long x y"}
    toy.ends["c"] = 1
    with begun(toy, texts) as (manifest, work, _):
        work.run()
        assert manifest.counts() == {"waiting": 0, "done": 13, "failed": 0}
    assert results(toy)["film.txt"] == "aa bb cc dd ee"
    assert results(toy)["other.txt"] == "xx yy"
    assert sorted(toy.parts) == ["a", "b", "c", "c", "d", "e", "x", "y"]


def test_where_a_part_is_set_aside_so_is_the_whole_and_another_try_does_what_lacks(toy: Toy) -> None:
    texts = {"film.txt": "long a wrong b"}
    with begun(toy, texts) as (manifest, work, _):
        work.run()
        assert manifest.counts() == {"waiting": 0, "done": 2, "failed": 2}
        told = [one["error"] for one in manifest.outcomes("failed") if one["part"] == WHOLE]
        assert told == [f"a part of it was set aside: {toy.folder / 'film.txt'}: this word is wrong"]
        manifest.try_again()
        (toy.folder / "film.txt").write_text("long a right b")
        toy.parts.clear()
        _again(toy, manifest).run()
        assert manifest.counts() == {"waiting": 0, "done": 4, "failed": 0}
    assert toy.parts == ["right"]
    assert results(toy)["film.txt"] == "aa rightright bb"


def test_a_driver_that_is_ended_between_parts_goes_on_with_those_that_lack(toy: Toy) -> None:
    texts = {"film.txt": "long a b c d e f g h"}
    with begun(toy, texts) as (manifest, work, _):

        def ended(outcome: Outcome) -> None:
            if len(toy.parts) > 4:
                raise KeyboardInterrupt
            finish(outcome)

        finish, work._finish = work._finish, ended
        with pytest.raises(KeyboardInterrupt):
            work.run()
    before = [*toy.parts]
    with begun(toy, texts) as (manifest, work, _):
        manifest.take_notes()
        work.run()
        assert manifest.counts() == {"waiting": 0, "done": 9, "failed": 0}
    assert results(toy)["film.txt"] == "aa bb cc dd ee ff gg hh"
    assert len(toy.parts) - len(before) <= 8 - 3


def test_parts_of_an_input_that_changed_are_forgotten(toy: Toy) -> None:
    with begun(toy, {"film.txt": "long a wrong"}) as (manifest, work, _):
        work.run()
        (folder,) = (manifest.output / ".farm" / "together").iterdir()
        (toy.folder / "film.txt").write_text("long c d e")
        manifest.merge([Listed(str(toy.folder / "film.txt"), "sub/film.txt", "2")])
        assert manifest.counts() == {"waiting": 1, "done": 0, "failed": 0}
        assert not folder.exists()
        _again(toy, manifest).run()
        assert manifest.counts() == {"waiting": 0, "done": 4, "failed": 0}
    assert results(toy)["film.txt"] == "cc dd ee"


def test_what_could_not_be_put_together_is_tried_again_once(toy: Toy) -> None:
    toy.broken_join = True
    with begun(toy, {"film.txt": "long a b"}) as (manifest, work, _):
        work.run()
        assert manifest.counts() == {"waiting": 0, "done": 2, "failed": 1}
        toy.broken_join = False
        manifest.try_again()
        toy.calls.clear()
        again = _again(toy, manifest)
        again.run()
        assert manifest.counts() == {"waiting": 0, "done": 3, "failed": 0}
        assert (again.progress().done, again.progress().total) == (3, 3)
        assert not [*(manifest.output / ".farm" / "together").iterdir()], "its parts are not needed any more"
    assert toy.calls == ["film.txt"]


def test_a_manifest_that_is_busy_at_the_end_is_waited_for(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    with begun(toy, {"film.txt": "long a b"}) as (manifest, work, _):
        put_together, busy = manifest.put_together, iter([True] * 5)

        def waits() -> Any:
            if manifest.counts()["done"] == 2 and next(busy, False):
                raise ManifestBusyError("somebody reads it")
            return put_together()

        monkeypatch.setattr(manifest, "put_together", waits)
        work.run()
        assert manifest.counts() == {"waiting": 0, "done": 3, "failed": 0}


def test_what_is_kept_of_something_that_is_not_whole_stays_for_the_next_run(toy: Toy) -> None:
    with begun(toy, {"film.txt": "long a wrong"}) as (manifest, work, _):
        work.run()
    with begun(toy, {"film.txt": "long a wrong"}) as (manifest, _, _):
        assert len([*(manifest.output / ".farm" / "together").iterdir()]) == 1
        manifest.undo_splits()
        assert manifest.counts() == {"waiting": 0, "done": 0, "failed": 1}
        assert not [*(manifest.output / ".farm" / "together").iterdir()]


def _again(toy: Toy, manifest: Manifest) -> Farm:
    folders = Folders(str(manifest.output), str(manifest.parts), str(manifest.notes))
    return Farm(manifest, Crew(Cluster(StandInRay(2), FarmOptions()), (toy.make, {}, folders), MADE_BY), lambda _: None)


def test_a_machine_that_joins_gets_work(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farm, "_LOOK", 0.0)
    run = toy.run

    def slowly(task: Task) -> dict[str, Any] | Split:
        if len(toy.calls) == 3:
            ray.resources["CPU"] = 3.0
        time.sleep(0.03)
        return run(task)

    monkeypatch.setattr(toy, "run", slowly)
    with begun(toy, numbered(40), cpus=1) as (manifest, work, ray):
        work.run()
        workers = len(ray.hired)
        assert manifest.counts()["done"] == 40
    assert workers == 3


def test_a_slow_worker_gets_fewer_units(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Callable[[Task], dict[str, Any] | Split]] = []
    done = [0, 0]

    def make(*_: object) -> Work:
        number = len(made)

        def run(task: Task) -> dict[str, Any] | Split:
            time.sleep(0.2 if number else 0.01)
            done[number] += 1
            return toy.run(task)

        made.append(run)
        return Work(run, MADE_BY)

    monkeypatch.setattr(toy, "make", make)
    with begun(toy, numbered(60)) as (_, work, _ray):
        work.run()
    assert done[0] > 2 * done[1]


def test_options_that_cannot_be_are_told() -> None:
    with pytest.raises(BadOptionError, match="device is 'cuda:0,cuda:1'; each worker has a device of its own"):
        FarmOptions(device="cuda:0,cuda:1")
    for wrong in ({"gpus_per_actor": 0.0}, {"gpus_per_actor": 1.5}, {"cpus_per_actor": 0}, {"actors": -1}):
        with pytest.raises(BadOptionError, match="actor"):
            FarmOptions(**wrong)
    with pytest.raises(BadOptionError, match="each worker has a device of its own, so give cuda"):
        FarmOptions(device="cuda:1")
    with pytest.raises(BadOptionError, match="give host and port"):
        FarmOptions(address="ray://10.0.0.1:10001")


@pytest.mark.parametrize(
    ("cpus", "gpus", "options", "places"),
    [
        (8, 0, FarmOptions(), 8),
        (8, 0, FarmOptions(cpus_per_actor=3), 2),
        (16, 4, FarmOptions(), 4),
        (16, 4, FarmOptions(gpus_per_actor=0.5), 8),
        (16, 4, FarmOptions(actors=2), 2),
        (2, 4, FarmOptions(), 2),
        (64, 2, FarmOptions(gpus_per_actor=0.1), 20),
        (64, 4, FarmOptions(gpus_per_actor=0.3), 12),
        (64, 4, FarmOptions(gpus_per_actor=2), 2),
        (8, 4, FarmOptions(device="cpu"), 8),
    ],
)
def test_there_is_a_worker_for_each_gpu_or_for_each_share_of_processors(
    cpus: int, gpus: int, options: FarmOptions, places: int
) -> None:
    assert Cluster(StandInRay(cpus, gpus), options).places(refused=0) == places
