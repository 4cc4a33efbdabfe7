"""What `bench.first_use` is to show: the rows of its table, from the records of what it measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

Record = dict[str, Any]
Times = Sequence["float | None"]

_FIRST, _EXTRA, _SHORT = 1.15, 0.3, 2.0  # times plain; or seconds beyond it, where it takes less than so many


class Point(NamedTuple):
    """One thing seen. `text` says it; `value` beyond `most` is too much, both in the unit of the row."""

    where: str
    value: float
    most: float
    text: str

    @property
    def met(self) -> bool:
        return self.value <= self.most

    @property
    def used(self) -> float:
        """Of what is allowed, for the worst of several."""
        return self.value / self.most if self.most else self.value


class Row(NamedTuple):
    what: str
    at_most: str
    points: Callable[[Sequence[Record]], list[Point]]


# --- times -----------------------------------------------------------------------------------------------------------


def filled(times: Times) -> list[float]:
    """Where a turn was left out (None), the mean of the nearest ones before and after it. The first is always there."""
    known = [index for index, time in enumerate(times) if time is not None]
    result = []
    for index in range(len(times)):
        before, after = max(k for k in known if k <= index), min((k for k in known if k >= index), default=known[-1])
        result.append((times[before] + times[after]) / 2)  # type: ignore[operator]  # those known
    return result


def most_of_first(plain: float) -> float:
    """What a first call may take where plain spandrel takes so long, seconds."""
    return max(_FIRST * plain, plain + _EXTRA if plain < _SHORT else 0.0)


def sum_ratio(record: Record, calls: int) -> float:
    """The first `calls` calls of ours as a multiple of plain's."""
    return sum(record["ours"][:calls]) / sum(filled(record["plain"])[:calls])


def differing(runs: Iterable[Record]) -> int:
    """How many differ in their bits from the first run of their profile revision, eager and compiled ones apart."""
    first: dict[tuple[str, bool], str] = {}
    marks = (((run["profile"], "compiled" in run["how"]), run["digest"]) for run in runs)
    return sum(first.setdefault(revision, digest) != digest for revision, digest in marks)


# --- points ----------------------------------------------------------------------------------------------------------


def _place(record: Record) -> str:
    height, width = record["size"]
    return f"{record['model']} {width}x{height}"


def _of(records: Sequence[Record], part: str, calls: int = 0) -> Iterator[Record]:
    """The records of a part that did not fail and have so many calls."""
    for record in records:
        if record["part"] == part and "failure" not in record and len(record.get("ours", ())) >= calls:
            yield record


def _first_idle(records: Sequence[Record]) -> list[Point]:
    points = []
    for record in _of(records, "idle"):
        plain, ours = record["plain"][0], record["ours"][0]
        text = f"{ours / plain:.2f} ({ours - plain:+.2f} s)"
        points.append(Point(_place(record), ours / plain, most_of_first(plain) / plain, text))
    return points


def first_ratio(record: Record) -> float:
    """The first calls of ours, of one process or of several, as a multiple of plain's."""
    plain, ours = zip(*record.get("firsts", [(record["plain"][0], record["ours"][0])]), strict=True)
    return sum(ours) / sum(plain)


def _first_busy(records: Sequence[Record]) -> list[Point]:
    return [_ratio(record, first_ratio(record), 1.25) for record in _of(records, "busy")]


def _sum_of(part: str, calls: int, most: float) -> Callable[[Sequence[Record]], list[Point]]:
    return lambda records: [_ratio(record, sum_ratio(record, calls), most) for record in _of(records, part, calls)]


def _steady(records: Sequence[Record]) -> list[Point]:
    steady = [record for record in _of(records, "idle") if record.get("steady", {}).get("then")]
    return [_ratio(record, min(record["steady"]["ours"]) / min(record["steady"]["then"]), 1.02) for record in steady]


def _automatic(records: Sequence[Record]) -> list[Point]:
    points = []
    for record in _of(records, "idle"):
        if "by_hand" in record:
            ratio = record["automatic"] / record["by_hand"]
            points.append(Point(_place(record), ratio, 1.05, f"{ratio:.2f} ({record['fastest']})"))
    return points


def _bits(records: Sequence[Record]) -> list[Point]:
    runs: dict[str, list[Record]] = defaultdict(list)
    for part in ("busy", "later"):  # of one cache folder
        for record in _of(records, part):
            runs[_place(record)] += record["runs"]
    return [
        Point(place, differing(made) / len(made), 0.0, f"{differing(made)} of {len(made)}")
        for place, made in runs.items()
    ]


def _seconds_of(name: str, most: float) -> Callable[[Sequence[Record]], list[Point]]:
    def points(records: Sequence[Record]) -> list[Point]:
        found = (record for record in _of(records, "silence") if record.get(name) is not None)
        return [Point(_place(record), record[name], most, f"{record[name]:.1f} s") for record in found]

    return points


def _ratio(record: Record, value: float, most: float) -> Point:
    return Point(_place(record), value, most, f"{value:.2f}")


ROWS = (
    Row("first call, idle machine", f"{_FIRST}; {_EXTRA} s where plain takes less than {_SHORT:.0f} s", _first_idle),
    Row("sum of the first three calls", "1.00", _sum_of("idle", 3, 1.0)),
    Row("first call, busy", "1.25", _first_busy),
    Row("sum of the first ten calls, busy", "0.95", _sum_of("busy", 10, 0.95)),
    Row("steady state (tenth call on) against the other checkout's", "1.02", _steady),
    Row("automatic (tenth call on) against the best by hand", "1.05", _automatic),
    Row("runs whose bits differ from the first of their profile revision, busy", "0", _bits),
    Row("longest silence, busy", "5 s", _seconds_of("silence", 5.0)),
    Row("interrupt to its being noticed, busy, one piece", "2 s", _seconds_of("interrupt", 2.0)),
)


# --- the table -------------------------------------------------------------------------------------------------------


def table(records: Sequence[Record]) -> list[str]:
    """Lines of Markdown: of each row the worst point, where that was, and how many points met the target."""
    lines = ["| what | at most | worst | where | met |", "| --- | --- | --- | --- | --- |"]
    return lines + [f"| {row.what} | {row.at_most} | {_told(row.points(records))} |" for row in ROWS]


def _told(points: Iterable[Point]) -> str:
    points = list(points)
    if not points:
        return "not measured |  | "
    worst, met = max(points, key=lambda point: point.used), sum(point.met for point in points)
    return f"{worst.text} | {worst.where} | {met} of {len(points)}"
