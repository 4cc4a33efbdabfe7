"""One summary of what the benchmarks wrote: `python -m bench.summary FOLDER [--docs FILE] [--results FOLDER]`.

Holds the numbers against the targets, prints the table, merges everything to RESULTS/<hardware>-<date>.json, and puts
the table between the markers in docs/performance.md. What nothing was found for stands there as not measured yet.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Record = dict[str, Any]
Found = dict[str, Record]
"""What each step wrote, by the file's name without ending."""

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
NOTHING = "not measured yet"
_HD = [720, 1280]
_PEERS = ("plain-", "compile-", "batched-", "split-")
_STEPS = "steps"  # name, exit code and seconds of every step, a line each, as the checklist writes them


class Target(NamedTuple):
    """What is wanted; `measured` finds it among what was found, or None."""

    what: str
    wanted: str
    measured: Callable[[Found], float | None]
    told: Callable[[float], str]
    met: Callable[[float], bool]


# --- finding ---------------------------------------------------------------------------------------------------------


def rows_of(found: Found, *steps: str, **wanted: object) -> Iterator[Record]:
    """The rows of some steps that did not fail and have the `wanted` values."""
    for step in steps:
        for row in found.get(step, {}).get("rows", ()):
            if "failure" not in row and all(row.get(name) == value for name, value in wanted.items()):
                yield row


def _peers(found: Found, model: str, prefixes: Sequence[str]) -> list[Record]:
    rows = rows_of(found, "peers", "peers-compiled", model=model, size=_HD, frames=1)
    return [row for row in rows if row["row"].startswith(tuple(prefixes))]


def _least(rows: Sequence[Record], key: str) -> float | None:
    return min((row[key] for row in rows if row.get(key) is not None), default=None)


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above and below else None


def times_as_fast(model: str, prefixes: Sequence[str]) -> Callable[[Found], float | None]:
    """Seconds of the fastest of these rows over those of our fastest."""
    return lambda found: _ratio(
        _least(_peers(found, model, prefixes), "seconds"), _least(_peers(found, model, ["ours-"]), "seconds")
    )


def share_of_memory(model: str) -> Callable[[Found], float | None]:
    """Our peak in automatic precision over the lower of plain half precision's."""
    return lambda found: _ratio(
        _least(_peers(found, model, ["ours-balanced-auto-eager"]), "peak_bytes"),
        _least(_peers(found, model, ["plain-half"]), "peak_bytes"),
    )


def best_share_of_compute(model: str) -> Callable[[Found], float | None]:
    return lambda found: max((row["compute_share"] for row in _peers(found, model, ["ours-"])), default=None)


def overhead(model: str) -> Callable[[Found], float | None]:
    return lambda found: _least(list(rows_of(found, "overhead", model=model, size=_HD)), "overhead")


def _worst(step: str, key: str, **wanted: object) -> Callable[[Found], float | None]:
    return lambda found: max((row[key] for row in rows_of(found, step, **wanted)), default=None)


def _hidden(found: Found) -> float | None:
    """The share of the copies behind kernels, the worse of both ways, for Compact."""
    shares = [share for row in rows_of(found, "streams", model="compact") for share in row["hidden"].values()]
    return min(shares, default=None)


def _growth(found: Found) -> float | None:
    """The dearest megapixel over the cheapest, the worse of pixels and frames, from a megapixel on: less fills no
    device."""
    ratios = []
    for series in ("megapixels", "frames"):
        rows = rows_of(found, "scaling", series=series)
        costs = [row["seconds_per_megapixel"] for row in rows if row["megapixels"] >= 1]
        ratios += [max(costs) / min(costs)] if costs else []
    return max(ratios, default=None)


def _drill(found: Found) -> float | None:
    """The lowest PSNR of a drill that came through every cap."""
    rows = found.get("drill", {}).get("rows", [])
    return None if any("failure" in row for row in rows) else min((row["psnr"] for row in rows), default=None)


def _times(value: float) -> str:
    return f"{value:.2f}x"


def _percent(value: float) -> str:
    return f"{value:.1%}"


TARGETS = (
    *(
        Target(f"{title} x4, 1280x720: our fastest over core's node", ">= 6x", times_as_fast(model, ["core"]), _times,
               lambda x: x >= 6)
        for title, model in (("ESRGAN", "esrgan"), ("Compact", "compact"))
    ),
    Target("ESRGAN: over the best of plain, compiled, batched, split", ">= 1.5x", times_as_fast("esrgan", _PEERS),
           _times, lambda x: x >= 1.5),
    Target("ESRGAN: of the measured matmul ceiling", ">= 45 %", best_share_of_compute("esrgan"), _percent,
           lambda x: x >= 0.45),
    Target("ESRGAN: end to end beyond the bare model", "<= 10 %", overhead("esrgan"), _percent, lambda x: x <= 0.1),
    Target("Compact: end to end beyond the bare model", "<= 25 %", overhead("compact"), _percent, lambda x: x <= 0.25),
    Target("Compact: copies behind kernels", "all", _hidden, _percent, lambda x: x >= 0.95),
    *(
        Target(f"{title}: peak memory over plain half precision's", "<= 1x", share_of_memory(model), _times,
               lambda x: x <= 1)
        for title, model in (("ESRGAN", "esrgan"), ("Compact", "compact"))
    ),
    Target("recomputed pixels at 1280x720", "<= 8 %", _worst("overhead", "recomputed", size=_HD), _percent,
           lambda x: x <= 0.08),
    Target("memory estimate over the real peak, highest, after one run", "<= 1.15x", _worst("memory", "ratio"), _times,
           lambda x: x <= 1.15),
    Target("memory estimate over the real peak, lowest, after one run", ">= 0.95x",
           lambda found: _least(list(rows_of(found, "memory")), "ratio"), _times, lambda x: x >= 0.95),
    Target("dearest megapixel over the cheapest", "linear", _growth, _times, lambda x: x <= 1.5),
    Target("out-of-memory drill, PSNR from the uncapped result", ">= 50 dB", _drill, lambda x: f"{x:.1f} dB",
           lambda x: x >= 50),
    Target("restart with a compiled model", "<= 2 s", _worst("compile", "restart_seconds"), lambda x: f"{x:.2f} s",
           lambda x: x <= 2),
)  # fmt: skip


# --- telling ---------------------------------------------------------------------------------------------------------


def target_lines(found: Found) -> list[str]:
    """A Markdown table of the targets."""
    lines = ["| target | wanted | measured | met |", "| --- | --- | --- | --- |"]
    for target in TARGETS:
        value = target.measured(found)
        measured = (NOTHING, "") if value is None else (target.told(value), "yes" if target.met(value) else "**no**")
        lines.append(f"| {' | '.join([target.what, target.wanted, *measured])} |")
    return lines


def peer_lines(found: Found) -> list[str]:
    """A Markdown table of the peers, a row for each model, picture and way; empty where there are none."""
    titles = ["model", "picture", "way", "s", "MP/s", "MB", "dB", "of matmul", "of copy", "precision"]
    titles += ["first s", "built MB"]
    lines = ["", f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    for step in ("peers", "peers-compiled"):
        for row in found.get(step, {}).get("rows", ()):
            height, width = row["size"]
            picture = f"{width}x{height}" + (f", {row['frames']} frames" if row["frames"] > 1 else "")
            cells = [f"{row['model']} x{row['scale']}", picture, row["row"], *_measures(row)]
            lines.append(f"| {' | '.join(cells)} |")
    return lines if len(lines) > 3 else []


def _measures(row: Record) -> list[str]:
    if "failure" in row:
        return [row["failure"].replace("|", "/"), *[""] * 8]
    peak, quality = row["peak_bytes"], row["psnr"]
    first, built = row.get("first_seconds"), row.get("compiled_bytes")
    return [
        f"{row['seconds']:.4f}",
        f"{row['megapixels_per_second']:.2f}",
        "-" if peak is None else f"{peak / 1e6:.0f}",
        "-" if quality is None else f"{quality:.1f}",
        _percent(row["compute_share"]),
        _percent(row["copy_share"]),
        row["precision"],
        *(["-", "-"] if first is None else [f"{first:.1f}", "-" if built is None else f"{built / 1e6:.1f}"]),
    ]


def step_lines(found: Found) -> list[str]:
    """How every step ended, a line each."""
    how = {0: "done", 124: "out of time", 137: "out of time"}
    return [
        f"{row['step']}: {how.get(row['code'], 'failed')}, {row['seconds']} s"
        for row in found.get(_STEPS, {}).get("rows", ())
    ]


def place(found: Found) -> tuple[str, str]:
    """(hardware, date as YYYY-MM-DD) of what was measured; empty where nothing was."""
    for record in found.values():
        if "environment" in record:
            return record["environment"]["hardware"], record["date"][:10]
    return "", ""


def table(found: Found) -> str:
    """What stands between the markers."""
    hardware, date = place(found)
    environment = next((record["environment"] for record in found.values() if "environment" in record), {})
    versions = f", torch {environment['torch']}, CUDA {environment['cuda'] or 'none'}" if environment else ""
    head = f"{hardware}, {date}{versions}." if hardware else f"CUDA: {NOTHING}."
    return "\n".join([head, "", *target_lines(found), *peer_lines(found)])


def updated(text: str, between: str) -> str:
    """`text` with what lies between its markers replaced. Raises `ValueError` if it has not one of each, in order."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"there must be one {BEGIN} and after it one {END}")
    return f"{text[: text.index(BEGIN)]}{BEGIN}\n\n{between}\n\n{text[text.index(END) :]}"


def file_name(found: Found) -> str:
    """<hardware>-<date>.json, without what no file's name should have."""
    hardware, date = place(found)
    return f"{re.sub('[^a-z0-9]+', '-', hardware.lower()).strip('-')}-{date}.json"


def read(folder: Path) -> Found:
    """What the steps wrote there. A file that was cut short, or is none of ours, is left out."""
    found: Found = {}
    for file in sorted(folder.glob("*.json")):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("rows"), list):
            found[file.stem] = record
    steps = folder / f"{_STEPS}.txt"
    if steps.exists():
        lines = (line.split() for line in steps.read_text(encoding="utf-8").splitlines())
        found[_STEPS] = {"rows": [{"step": name, "code": int(code), "seconds": int(s)} for name, code, s in lines]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the steps' files lie")
    parser.add_argument("--docs", type=Path, metavar="FILE", help="update the table in there")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="write everything there, as one file")
    args = parser.parse_args()

    found = read(args.folder)
    between = table(found)
    print("\n".join([between, "", *step_lines(found)]))
    if args.results and any(place(found)):
        args.results.mkdir(parents=True, exist_ok=True)
        target = args.results / file_name(found)
        target.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"\nall numbers: {target}")
    if args.docs:
        args.docs.write_text(updated(args.docs.read_text(encoding="utf-8"), between), encoding="utf-8")


if __name__ == "__main__":
    main()
