"""The first calls of a process, beside plain spandrel's: `python -m bench.first_use [--quick] [--against CHECKOUT]`.

For each of twelve architectures, on pictures from 96x96 to 1280x720 by what a model weighs: plain spandrel and this
pack, in processes of their own that do nothing else, in turn, from the first call on. Every model finds a cache folder
that holds nothing but our kernels for CPUs, as on a machine where another model was used before; with "--kernels
fresh" an empty one.

The parts (`--parts`): "idle", ten calls with the smallest picture and three with larger ones, and with `--against` the
steady state beside that checkout's (`git worktree add ../then COMMIT`); "choices", within it, what can be chosen by
hand instead of automatic; "busy", ten calls beside processes that fill cores and memory (`--beside`, eight), the first
calls of some further processes (the column "1st" has the sum of them all), and as many more calls as `--runs` asks for,
in second sessions, whose bits must be those of the first ones. "silence", which is asked for apart, is beside them too:
the longest time without a word, and the time until an interrupt is noticed.

Told is each picture as it comes, in multiples of plain, and at the end the table of targets. What a process goes on
with after a call, such as learning, is at work while the other has its turn; `--idle-between` leaves it some seconds
alone. Before the steady state it is waited for.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from cudaspeed.api.errors import first_line
from cudaspeed.api.options import LEVELS
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.models.precision import fast_precisions

from .busy import COUNT, Busy, busy
from .first_use_rows import first_ratio, sum_ratio, table
from .first_use_turns import CALLS, OF_LARGER, Place, busy_calls, idle, later_session, listened_to
from .harness import ROOT, Column, Record, Results, Table, command_line, parse_size
from .model_zoo import ARCHITECTURES

_PARTS = ("idle", "choices", "busy", "silence")
_USUAL, _QUICK_PARTS = _PARTS[:3], ("idle", "busy")
_LISTENED_TO = (320, 480)  # (height, width)
# By what a model weighs; the first is measured most.
_SMALLEST = ("96x96",)
_SIZES = {
    "bundled": ("96x96", "451x300", "1280x720"),
    "compact": ("96x96", "320x240"),
    "span": ("96x96", "480x320"),
    "realcugan": ("96x96", "320x240"),
    "safmn": ("96x96", "320x240"),
    "dat": ("96x96", "192x192"),
    "omnisr": ("96x96", "192x192"),
    "dctlsa": ("160x160",),
}
_QUICK = ("bundled", "compact", "span", "dctlsa")
_RUNS, _RUNS_QUICK = 200, 80

_TABLE = Table(
    "picture",
    20,
    (
        Column("part", 7, lambda r: r["part"]),
        Column("plain s", 8, lambda r: f"{r['plain'][0]:.3f}"),
        Column("1st", 6, lambda r: f"{first_ratio(r):.2f}"),
        Column("2nd", 6, lambda r: f"{r['ours'][1] / r['plain'][1]:.2f}"),
        Column("3rd", 6, lambda r: f"{r['ours'][2] / r['plain'][2]:.2f}"),
        Column("of 3", 6, lambda r: f"{sum_ratio(r, 3):.2f}"),
        Column("of 10", 6, lambda r: f"{sum_ratio(r, CALLS):.2f}" if len(r["ours"]) == CALLS else "-"),
        Column("last", 6, lambda r: f"{r['ours'][-1] / r['plain'][-1]:.2f}"),
        Column("how", 18, lambda r: r["runs"][-1]["how"]),
    ),
)


def sizes_of(model: str, quick: bool) -> tuple[tuple[int, int], ...]:
    """(height, width) of the pictures for a model of `bench.model_zoo`, or a file."""
    sizes = _SIZES.get(model, _SMALLEST)
    return tuple(map(parse_size, sizes[:1] if quick else sizes))


def choices(half: Sequence[str], compiled: bool) -> dict[str, Record]:
    """What can be chosen by hand on a device that is fast in these half precisions: options, by a name for them."""
    found = {}
    for precision in ("fp32", *half):
        for autocast in (False,) if precision == "fp32" else (False, True):
            for compile_it in (False, True) if compiled else (False,):
                for level in LEVELS:
                    marks = ["autocast"] * autocast + ["compiled"] * compile_it
                    options = {"precision": precision, "autocast": autocast, "level": level, "compile": compile_it}
                    found[" ".join([precision, level, *marks])] = options | {"compile_mode": "wait"}
    return found


def shares(runs: int, seconds: Sequence[float]) -> list[int]:
    """`runs` runs shared out among models whose calls take so long: two each, the others alike in time."""
    left = max(0, runs - 2 * len(seconds))
    total = sum(1 / each for each in seconds)
    return [2 + round(left / each / total) for each in seconds]


def commit_of(checkout: Path) -> str:
    """The commit, with "-dirty" where files differ from it; "" outside of git."""
    ask = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(ask, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


class Bench:
    """Goes through the parts, and tells of each picture as it comes."""

    def __init__(self, place: Place, models: Sequence[str], quick: bool, results: Results) -> None:
        self._place, self._models, self._quick, self._results = place, models, quick, results
        self.records: list[Record] = []

    def idle(self, by_hand: dict[str, Record]) -> None:
        for model in self._models:
            for index, size in enumerate(sizes_of(model, self._quick)):
                calls = OF_LARGER if index else CALLS
                self._keep("idle", model, size, lambda task, calls=calls: idle(self._place, task, calls, by_hand))

    def busy(self, load: Busy, runs: int) -> None:
        """Ten calls of each model, then further sessions until there are so many runs in all."""
        tasks = {model: sizes_of(model, True)[0] for model in self._models}
        with load.paused():
            for model, size in tasks.items():
                self._place.task(model, size)  # made, if it is not there
        for model, size in tasks.items():
            self._keep("busy", model, size, lambda task: busy_calls(self._place, task, load))
        done = [record for record in self.records if record["part"] == "busy" and "failure" not in record]
        further = shares(runs - CALLS * len(done), [record["ours"][-1] for record in done])
        for record, more in zip(done, further, strict=True):
            model, size = record["model"], record["size"]
            self._keep("later", model, size, lambda task, more=more: later_session(self._place, task, load, more))

    def silence(self, load: Busy) -> None:
        for model in self._models:
            self._keep("silence", model, _LISTENED_TO, lambda task: listened_to(self._place, task, load))

    def _keep(self, part: str, model: str, size: tuple[int, int], measure: Callable[..., Record]) -> None:
        record: Record = {"part": part, "model": Path(model).stem, "size": size}
        try:
            record |= measure(self._place.task(model, size))
        except RuntimeError as error:  # a process that ended is a result
            record["failure"] = first_line(error)
        self.records.append(record)
        self._results.keep(record)
        if "plain" in record or "failure" in record:  # others are in the table at the end
            _TABLE.row(f"{record['model']} {size[1]}x{size[0]}", record)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument(
        "--models", nargs="+", help=f"of {', '.join(ARCHITECTURES)}, others of bench.model_zoo, or files"
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=_PARTS,
        help=f"if not said: {', '.join(_USUAL)}; with --quick {', '.join(_QUICK_PARTS)}",
    )
    parser.add_argument("--quick", action="store_true", help=f"{', '.join(_QUICK)} with their smallest pictures")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another one, for the steady state")
    parser.add_argument("--kernels", default="ready", choices=("ready", "fresh"), help="those for CPUs, at first")
    parser.add_argument("--compiled", action="store_true", help="choices by hand compiled, too: minutes for each model")
    parser.add_argument(
        "--runs", type=int, help=f"whose bits are compared, in all (default {_RUNS}, a part of them quick)"
    )
    parser.add_argument("--beside", type=int, default=COUNT, metavar="COUNT", help="busy processes")
    parser.add_argument("--idle-between", type=float, default=0.0, metavar="SECONDS", help="after each call of ours")
    args = parser.parse_args()

    models = args.models or (_QUICK if args.quick else ARCHITECTURES)
    parts = args.parts or (_QUICK_PARTS if args.quick else _USUAL)
    device = StandaloneContext(args.device).device
    results = Results(device, args.json)
    commits = {"commit": commit_of(ROOT)} | ({"against": commit_of(args.against)} if args.against else {})
    results.told |= commits
    where = results.told["environment"]
    told = ", ".join(f"{name} {value}" for name, value in commits.items())
    print(f"{where['hardware']}, {results.told['threads']} threads, torch {where['torch']}, {told}")
    print(f"kernels {args.kernels}, {args.idle_between:g} s idle between, busy: {args.beside} processes")
    with tempfile.TemporaryDirectory() as folder:
        against = args.against and args.against.resolve()
        place = Place(Path(folder), args.device, against, args.kernels, args.idle_between)
        bench = Bench(place, models, args.quick, results)
        _TABLE.head()
        if "idle" in parts:
            by_hand = choices(fast_precisions(device), args.compiled) if "choices" in parts else {}
            bench.idle(by_hand)
        if {"busy", "silence"} & {*parts}:
            with busy(args.beside) as load:
                if "busy" in parts:
                    bench.busy(load, args.runs or (_RUNS_QUICK if args.quick else _RUNS))
                if "silence" in parts:
                    bench.silence(load)
    print("\n" + "\n".join(table(bench.records)))


if __name__ == "__main__":
    main()
