"""What is to be measured, and what the table makes of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench import contenders
from bench.contenders import Contender, Task
from bench.first_use import _SIZES, choices, commit_of, shares, sizes_of
from bench.first_use_rows import ROWS, differing, filled, most_of_first, sum_ratio, table
from bench.first_use_turns import Place, Turns, plain_turns, rounds_for
from bench.harness import ROOT, Record
from bench.model_zoo import ARCHITECTURES, build


def picture(part: str, plain: list[float | None], ours: list[float], **more: object) -> Record:
    runs = [{"profile": "", "digest": "a", "how": "fp32, plain"} for _ in ours]
    return {"part": part, "model": "toy", "size": [96, 128], "plain": plain, "ours": ours, "runs": runs, **more}


def line(what: str, records: list[Record]) -> list[str]:
    (found,) = (text for text in table(records) if text.startswith(f"| {what}"))
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_a_first_call_may_take_a_share_more_or_a_little_where_plain_takes_little() -> None:
    assert most_of_first(0.1) == pytest.approx(0.4)
    assert most_of_first(1.99) == pytest.approx(2.29)
    assert most_of_first(10.0) == pytest.approx(11.5)


def test_the_worst_is_told_where_it_was_and_how_many_were_good() -> None:
    records = [
        picture("idle", [0.1], [0.35]),  # 3.5 times, but 0.25 s
        picture("idle", [10.0], [12.0]),
        picture("idle", [10.0], [11.0]),
        picture("busy", [1.0], [9.0]),
        {"part": "idle", "model": "broken", "size": [96, 96], "failure": "the process ended with -9"},
    ]
    assert line("first call, idle", records)[2:] == ["1.20 (+2.00 s)", "toy 128x96", "2 of 3"]
    assert line("first call, busy", records)[2:] == ["9.00", "toy 128x96", "0 of 1"]
    assert line("steady state", records)[2] == line("longest silence", records)[2] == "not measured"


def test_first_calls_of_several_processes_count_by_their_sum() -> None:
    lucky = picture("busy", [1.0], [4.0]) | {"firsts": [(1.0, 4.0), (7.0, 2.0)]}
    assert line("first call, busy", [lucky])[2:] == ["0.75", "toy 128x96", "1 of 1"]


def test_a_turn_that_plain_left_out_counts_like_its_neighbours() -> None:
    assert filled([5.0, 2.0, None, None, 4.0]) == [5.0, 2.0, 3.0, 3.0, 4.0]
    assert filled([5.0, 2.0, None]) == [5.0, 2.0, 2.0]
    ten = picture("busy", [4.0, 2.0, 2.0, *[None] * 6, 2.0], [2.0] * 10)
    assert sum_ratio(ten, 3) == pytest.approx(6 / 8)
    assert line("sum of the first ten", [ten])[2:] == ["0.91", "toy 128x96", "1 of 1"]
    assert line("sum of the first ten", [picture("busy", [1.0], [1.0] * 3)])[2] == "not measured"


def test_bits_are_compared_within_a_revision_and_with_later_sessions() -> None:
    def run(profile: str, digest: str, how: str = "fp32, winograd") -> Record:
        return {"profile": profile, "digest": digest, "how": how}

    changed = [run("rev 1", "a"), run("rev 1", "a"), run("rev 2", "b"), run("rev 2", "b", "fp32, compiled")]
    assert differing(changed) == 0
    assert differing([*changed, run("rev 2", "c"), run("rev 1", "a"), run("rev 1", "b")]) == 2
    first = picture("busy", [1.0] * 3, [1.0] * 3)
    later = {"part": "later", "model": "toy", "size": [96, 128], "runs": [run("", "a"), run("", "b")]}
    assert line("runs whose bits differ", [first, later])[2:] == ["1 of 5", "toy 128x96", "0 of 1"]


def test_automatic_is_held_against_the_best_choice_and_the_steady_state_against_the_other_checkout() -> None:
    ten = picture(
        "idle",
        [1.0] * 10,
        [1.0] * 10,
        steady={"ours": [0.6, 0.5], "then": [0.5, 0.4]},
        automatic=0.3,
        choices={"fp32 speed": 0.4, "bf16 speed": 0.15},
        fastest="bf16 speed",
        by_hand=0.2,
    )
    assert line("automatic", [ten])[2] == "1.50 (bf16 speed)"
    assert line("steady state", [ten])[2] == "1.25"


def test_every_target_has_a_row_and_every_row_its_cells() -> None:
    lines = table([])
    assert len(lines) == 2 + len(ROWS) == 11
    assert {text.count("|") for text in lines} == {6}


def test_a_heavy_model_s_plain_takes_few_turns_and_a_light_one_s_steady_state_many() -> None:
    assert plain_turns(10, 0.1) == {*range(10)}
    assert plain_turns(10, 5.0) == {0, 1, 2, 9}
    assert plain_turns(3, 5.0) == {0, 1, 2}
    assert rounds_for(0.0) == 15
    assert rounds_for(20.0) == 3


def test_choices_are_what_a_device_is_fast_in() -> None:
    assert {*choices((), compiled=False)} == {"fp32 balanced", "fp32 speed", "fp32 memory"}
    found = choices(("bf16",), compiled=True)
    assert len(found) == 3 * 2 + 3 * 2 * 2
    assert found["bf16 speed autocast compiled"] == {
        "precision": "bf16",
        "autocast": True,
        "level": "speed",
        "compile": True,
        "compile_mode": "wait",
    }


def test_runs_are_shared_out_alike_in_time() -> None:
    assert shares(100, [1.0, 1.0]) == [50, 50]
    light, heavy = shares(104, [0.1, 10.0])
    assert light + heavy == 104
    assert heavy == 3
    assert shares(-5, [1.0, 2.0]) == [2, 2]


def test_there_are_twelve_architectures_and_pictures_for_each() -> None:
    assert {*_SIZES} <= {*ARCHITECTURES}
    assert len({*ARCHITECTURES}) == 12
    assert {build(name).architecture.id for name in ARCHITECTURES[9:]} == {"PLKSR", "OmniSR", "SAFMN"}
    assert sizes_of("bundled", quick=False)[-1] == (720, 1280)
    assert sizes_of("bundled", quick=True) == sizes_of("some/file.pth", quick=False) == ((96, 96),)


class Answering:
    """A contender that takes no time and notes its turns."""

    def __init__(self, name: str, turns: list[str], seconds: float = 0.1) -> None:
        self._name, self._turns, self._seconds = name, turns, seconds

    def call(self, options: Record | None = None) -> Record:
        self._turns.append(f"{self._name} {options['level']}" if options else self._name)
        return {"seconds": self._seconds, "profile": "", "how": "", "digest": ""}

    def settle(self) -> Record:
        self._turns.append(f"{self._name} settles")
        return {}


def test_turns_alternate_and_a_steady_state_waits_for_what_is_learned() -> None:
    taken: list[str] = []
    turns = Turns({name: Answering(name, taken) for name in ("plain", "ours", "then")}, 0.0)  # type: ignore[arg-type]
    turns.take(2)
    assert taken == ["plain", "ours", "then", "then", "ours", "plain"]
    assert turns.times == {name: [0.1, 0.1] for name in ("plain", "ours", "then")}
    taken.clear()
    assert {*turns.steady()} == {"ours", "then"}
    assert taken[:4] == ["ours settles", "then settles", "ours", "then"]
    taken.clear()
    told = turns.by_hand({"fast": {"level": "speed"}, "frugal": {"level": "memory"}})
    assert told == {"choices": {"fast": 0.1, "frugal": 0.1}, "fastest": "fast", "automatic": 0.1, "by_hand": 0.1}
    assert taken[:8] == ["ours"] * 8, "the tenth call on"
    assert taken[8:13] == ["ours speed"] * 2 + ["ours memory"] * 2 + ["ours settles"]
    assert taken[13:17] == ["ours speed"] * 2 + ["ours memory"] * 2, "the first one copies the model"
    assert taken[-8:] == ["ours speed"] * 2 + ["ours"] * 4 + ["ours speed"] * 2, "in turns of these two alone"


def test_a_process_of_its_own_for_each_call_after_call(tmp_path: Path) -> None:
    place = Place(tmp_path, "cpu", None, "fresh", 0.0)
    contender = Contender("plain", place.task("bundled", (24, 32)), tmp_path)
    try:
        assert contender.ready()["scale"] == 2
        first, second = contender.call(), contender.call()
        assert first["digest"] == second["digest"]
        assert first["seconds"] > 0
    finally:
        contender.end()


def test_a_process_that_ends_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "ROOT", tmp_path)  # where there is no bench
    contender = Contender("ours", Task(tmp_path / "none.safetensors", (24, 32), "cpu"), tmp_path, tmp_path)
    try:
        with pytest.raises(RuntimeError, match=r"the process ended with 1: .*No module named 'bench'"):
            contender.ready()
    finally:
        contender.end()


def test_the_commit_is_told(tmp_path: Path) -> None:
    assert commit_of(tmp_path) == ""
    asked = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    assert commit_of(ROOT).startswith(asked.stdout.strip())
