"""Times the layers that models are made of, for the table that ships: `python -m bench.layer_table`.

Prints the file for this processor's instructions in `kernels/measured/`: the layers of the models of
`bench/model_zoo.py`, and 3x3 convolutions of other widths between which those of other models lie. By one thread, in
the time that the processor gave to it, so that other work on the machine counts little; each the least of some calls.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.kernels import linear, transformer_block, window_attention, winograd
from cudaspeed.kernels.layer_times import LayerTimes, Way, timed_as, timings
from cudaspeed.kernels.layers import LayerKind, layers_of

from . import model_zoo

_WAYS: tuple[Way, ...] = ("plain", "plain channels last", "winograd", "attention")
_BF16: tuple[Way, ...] = ("bf16 channels last", "bf16 winograd")
_WIDTHS = (8, 16, 32, 64, 128, 256)
_WITHOUT_OURS: tuple[Way, ...] = ("plain", "plain channels last", "bf16 channels last")
_TURNS = 12
_BUILDING = 60.0  # seconds


def kinds_of(names: Iterable[str]) -> list[LayerKind]:
    """The kinds of layers of these models of `bench/model_zoo.py` and of their blocks' parts, and convolutions of all
    widths."""
    found = {LayerKind("conv3x3", pair) for pair in itertools.product(_WIDTHS, _WIDTHS)}
    for name in names:
        model = model_zoo.build(name)
        for kind in layers_of(model.model, model.scale):
            found.update([kind, *_parts(kind)])
    return sorted(found)


def _parts(kind: LayerKind) -> Iterator[LayerKind]:
    """What other models have by itself, of a block; nothing of other layers."""
    if kind.name == "block":
        channels, heads, hidden, window = kind.sizes
        yield LayerKind("attention", (window**2, window**2, channels // heads, heads))
        for sizes in ((channels, 3 * channels), (channels, channels), (channels, hidden), (hidden, channels)):
            yield LayerKind("pointwise", sizes)


def rows(times: LayerTimes) -> Iterator[list[str]]:
    """The table of these times: a line for a kind of layer, a column for a way, seconds a megapixel, three digits."""
    columns: tuple[Way, ...] = (*_WAYS, *_BF16)
    yield ["layer", "sizes", *columns]
    for kind in sorted({kind for kind, _ in times.seconds}):
        told = (times.seconds.get((kind, way)) for way in columns)
        yield [kind.name, "x".join(map(str, kind.sizes)), *(f"{seconds:.3g}" if seconds else "" for seconds in told)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=[*model_zoo.NAMES, "swinir-m"])
    parser.add_argument("--bf16", action="store_true", help="where the processor computes in it")
    args = parser.parse_args()

    torch.set_num_threads(1)
    folder = Path(StandaloneContext("cpu").cache_folder)
    built = [kernels.prepare(folder, _BUILDING) for kernels in (winograd, window_attention, linear, transformer_block)]
    wanted: tuple[Way, ...] = (*_WAYS, *(_BF16 if args.bf16 else ()))
    ways: list[Way] = [way for way in wanted if all(built) or way in _WITHOUT_OURS]
    kinds = kinds_of(args.models)
    times = LayerTimes()
    for kind in kinds:  # all ways of a kind in turn
        what: dict[tuple[LayerKind, Way], None] = dict.fromkeys((kind, timed_as(kind, way)) for way in ways)
        times = times.with_timings(timings(what, time.process_time, _TURNS))
    print(f"torch {torch.__version__}, others that ran: {os.getloadavg()[0]:.1f}", file=sys.stderr)
    csv.writer(sys.stdout, lineterminator="\n").writerows(rows(times))


if __name__ == "__main__":
    main()
