"""What stands still: tiles that show what the frame before showed there take what came of it, and are not computed.

A tile is compared with what was last computed in its place. It is the same bit for bit, or, where the user allows it,
differs by little everywhere; then everything that is not quite the same is computed anew once a second, and where most
of a frame changes. Tiles of one value, bars above and below a film, are computed once for a value.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor

from .frame_io import FrameSource
from .moving import MovingPart
from .streams import Event
from .workload import OF_ONE_VALUE

Place = tuple[int, int, int]
"""Where a tile lies: picture of its frame, row and column of the plan."""
Seat = tuple[int, int]
"""Where a tile is computed: in a batch of how many, and which of them it is. The last bits depend on both."""

Leaving = Callable[[Event, Tensor], AbstractContextManager[None]]
"""What is queued inside is done when the event is past and the tensor is there (`Download.leaving`)."""

_VALUES = 8  # of tiles of one value that are remembered, where a frame has tiles enough
_USUAL_RATE = 25  # frames a second, where nothing says otherwise
_SELDOM = 8  # frames, of which one is looked at, where so many showed nothing still and to look makes the host wait
_ROUNDING = 1e-6  # of differences between values of 0..1
_CUT = 0.5  # the share of a frame that changes in a cut


class _Result(NamedTuple):
    """What came of a tile, there when `computed` is past."""

    tile: Tensor
    computed: Event


class StillTiles:
    """What one run saw last in every place of its plan, and what came of it.

    Frames are looked at in their order; later, in the same order, tiles get their results. In between a result may have
    turned out not to be fit to be handed on, or memory may have run out: `result` then has none, and the tile is
    computed after all.

    `tolerance` is how much (0..1) a value may differ and count as the same, `rate` how many frames a second has, if
    that is known. `moving` is told of all frames, if it is to be.
    """

    def __init__(self, tolerance: float = 0.0, rate: float | None = None, moving: MovingPart | None = None) -> None:
        self.moving = moving
        self._tolerance, self._interval = tolerance, max(1, round(rate or _USUAL_RATE))
        self._on, self._most_values = False, 0
        self._due = 0  # the frame where everything is computed anew
        self._ways: dict[Sequence[int], object] = {}
        self._barred: set[Place] = set()
        self.forget()

    def begin(self, on: bool) -> None:
        """Another plan, from which nothing is known; with `on`, from now on something is kept."""
        self.forget()
        self._on, self._ways = on, {}

    def stop(self) -> None:
        """Memory is short: give back what is kept, and keep nothing more before the next `begin`."""
        self.begin(on=False)

    def forget(self) -> None:
        """Hand nothing on that is known so far."""
        self._seen: dict[Place, Tensor] = {}
        self._results: OrderedDict[Hashable, _Result] = OrderedDict()
        self._from: dict[tuple[int, Place], Hashable] = {}
        self._flat: dict[tuple[int, Place], tuple[float, ...]] = {}
        self._values: OrderedDict[Hashable, None] = OrderedDict()
        self._moved = 0  # frames in a row in which nothing stood still
        if self.moving:
            self.moving.forget()

    def computed_in(self, way: object, shape: Sequence[int]) -> None:
        """Batches of this `shape` are computed in this `way` by now: what came of another one is not handed on.
        Other shapes may have a way of their own: what is compiled does not take all."""
        if self._ways.get(shape, way) != way:
            self.forget()
            self._barred.clear()
            self._ways.clear()
        self._ways[shape] = way

    def is_due(self, frame: int) -> bool:
        """Whether `frame` is one where everything that is not quite the same is computed anew."""
        return self._tolerance > 0 and frame >= self._due

    def see(self, pictures: Sequence[Tensor]) -> None:
        """The next frame, as the pictures [C, H, W] that it is for the model."""
        if self._on and self.moving:
            self.moving.see(pictures)

    def look_at(self, frame: int, tiles: Mapping[Place, Tensor]) -> None:
        """Find out which of the `tiles` [C, h, w] of `frame`, all that it has, need not be computed."""
        if not self._on:
            return
        self._most_values = min(_VALUES, int(OF_ONE_VALUE * len(tiles)))
        rests = self._moved > _SELDOM and self._moved % _SELDOM and _makes_wait(next(iter(tiles.values())))
        differences = {} if rests else self._differences(tiles)
        most = self._tolerance + _ROUNDING if self._tolerance else 0.0
        changed = sum(differences.get(place, 1.0) > most for place in tiles)
        if self.is_due(frame) or changed > _CUT * len(tiles):
            most, self._due = 0.0, frame + self._interval
        self._moved = 0 if min(differences.values(), default=1.0) <= most else self._moved + 1
        for place, tile in tiles.items():
            if differences.get(place, 1.0) <= most:
                self._from[frame, place] = place
                if not self._tolerance:
                    self._seen[place] = tile  # equal to what it replaces, whose frame can go
                continue
            self._seen[place] = tile.clone() if self._tolerance else tile
            value = _value_of(tile)
            if value is not None:
                self._flat[frame, place] = value

    def is_known(self, frame: int, place: Place, seat: Seat) -> bool:
        """Whether the tile need not be computed, `seat` being where it would be."""
        if (frame, place) not in self._from:
            value = self._flat.get((frame, place))
            if value is None or (value, seat) not in self._values:
                return False
            self._from[frame, place] = value, seat
        return True

    def expect(self, frame: int, place: Place, seat: Seat) -> None:
        """The tile is going to be computed there."""
        value = self._flat.get((frame, place))
        if value is not None:
            self._values[value, seat] = None
            if len(self._values) > self._most_values:
                oldest, _ = self._values.popitem(last=False)
                self._results.pop(oldest, None)

    def keep(self, frame: int, place: Place, seat: Seat, result: tuple[Tensor, Event]) -> None:
        """The tile was computed, and all is well with it."""
        value = self._flat.pop((frame, place), None)
        if not self._on or place in self._barred:
            return
        self._results[place] = _Result(*result)
        if (value, seat) in self._values:
            tile, computed = result
            self._results[value, seat] = _Result(tile.clone() if _is_part(tile) else tile, computed)

    def bar(self, frame: int, place: Place) -> None:
        """The tile came out faulty, or was mended: what comes of this place is not handed on in this run."""
        value = self._flat.pop((frame, place), None)
        self._barred.add(place)
        self._seen.pop(place, None)
        self._results.pop(place, None)
        for key in [key for key in self._values if isinstance(key, tuple) and key[0] == value]:
            self._results.pop(key, None)
            del self._values[key]

    def result(self, frame: int, place: Place, leaving: Leaving) -> tuple[Tensor, Event] | None:
        """What the tile, which was not computed, takes; None where there is nothing any more. It is there, when
        its event is past, for what is queued in `leaving`."""
        self._flat.pop((frame, place), None)
        source = self._from.pop((frame, place), None)
        found = self._results.get(source) if source is not None else None
        if found is None:
            return None
        if _is_part(found.tile):  # or it would keep all of its batch
            with leaving(found.computed, found.tile):
                found = self._results[source] = found._replace(tile=found.tile.clone())
        if place not in self._barred:
            self._results[place] = found
        return found.tile, found.computed

    def _differences(self, tiles: Mapping[Place, Tensor]) -> dict[Place, float]:
        """How far each tile is, at most, from what was last computed in its place; of those where that is known, and
        was not barred. Without a tolerance 0 is the same, bit for bit, and anything else is not."""
        known = [place for place in tiles if place in self._seen and place not in self._barred]
        if not known:
            return {}
        pairs = [(tiles[place], self._seen[place]) for place in known]
        if self._tolerance:
            apart = torch.stack([(tile - seen).abs().amax() for tile, seen in pairs]).tolist()
        elif not _makes_wait(pairs[0][0]):  # each stops at the first difference
            apart = [not torch.equal(_bits(tile), _bits(seen)) for tile, seen in pairs]
        else:  # the host waits once
            apart = torch.stack([(_bits(tile) != _bits(seen)).any() for tile, seen in pairs]).tolist()
        return dict(zip(known, apart, strict=True))


class Upcoming:
    """The frames of a run that are still to be done, in order: groups to compute, and frames that are, bit for bit, the
    one before, which need not be. Groups have up to `most` frames."""

    def __init__(self, source: FrameSource, still: StillTiles, most: int) -> None:
        self._source, self._still, self._most = source, still, most

    def repeats(self, frame: int) -> bool:
        """Whether what came of the frame before is what would come of `frame`."""
        return self._source.repeats(frame) and not self._still.is_due(frame)

    def group(self, first: int) -> dict[int, int]:
        """Frames to compute together, from `first` on, each with how many come after it that are the same."""
        group = {first: 0}
        frame = last = first
        while len(group) < self._most and (frame := frame + 1) < min(len(self._source), first + 2 * self._most):
            if self.repeats(frame):
                group[last] += 1
            else:
                group[frame], last = 0, frame
        return group


def _makes_wait(tile: Tensor) -> bool:
    """Whether the host waits for a device where it asks what is in the tile."""
    return tile.device.type != "cpu"


def _is_part(tile: Tensor) -> bool:
    """Whether its memory is more than its own."""
    return tile.untyped_storage().nbytes() > tile.nbytes


def _bits(tile: Tensor) -> Tensor:
    return tile.view(torch.int32)


def _value_of(tile: Tensor) -> tuple[float, ...] | None:
    """The values of its channels, where each channel has one only."""
    if _makes_wait(tile):
        return None
    value = tile[:, :1, :1]
    return tuple(value.flatten().tolist()) if torch.equal(tile, value.expand_as(tile)) else None
