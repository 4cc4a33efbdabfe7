"""The plan of equal tiles: pure integers, no pixels. All lengths are pixels of the model's input picture.

One tile shape per run means one compiled shape, one batch shape and one set of buffers. Tiles start on the model's
grid (its size multiple and attention window), because a window model that starts off its grid cuts other windows than
it would on the whole picture: 45 dB instead of 60 for a trained DCTLSA x4 at tile 128.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from ..api.errors import BadOptionError
from ..api.model_info import ModelInfo
from ..api.options import MAX_OVERLAP

# Kernels like sides that are multiples of 8 (tensor cores, vector registers); it costs at most 7 pixels a tile.
_FRIENDLY = 8
# Seams are feathered over this share of the overlap, around its middle, where both tiles see the most context; over no
# more pixels than hide a step, because what is left keeps the seam away from the cuts. Tiles that differ everywhere
# are feathered over all that they share but so many pixels at each cut (docs/latents.md).
_SEAM_SHARE = 4
_WIDEST_SEAM = 8
_FROM_CUTS = 8
# Automatic overlaps: the least, for what the measured receptive field may have missed, and where windows and attention
# stop repaying more (docs/seams.md).
_LEAST_OVERLAP = 8
_MOST_ATTENTION_OVERLAP = 64
# A tile is wasteful when its overlap is more than this share of its side (31 % of the pixels computed twice), a large
# one, that takes much memory, only when it is more than half of that.
_WASTEFUL = 8
_LARGE = 256
_SMALLEST_AUTOMATIC = 128
# A band of a picture is at least so many times as high as what it shares with the next.
_BAND = 4


Box = tuple[int, int, int, int]
"""A part of a picture: from its first row and to the one after its last, and its columns alike."""


class Around(NamedTuple):
    """Tiles that lie around `box`, of which neighbours share at least `overlap` pixels."""

    box: Box
    overlap: int


@dataclass(frozen=True)
class Axis:
    """One axis of a tile plan, in input pixels.

    The picture's `size` lies at the start of a canvas of `canvas` >= size pixels (more only where the model's own
    size requirements or window grid ask for it). Tiles of `tile` pixels start at `origins`; neighbours i and i+1 are
    blended over `seams[i]` = (start, stop), outside of which exactly one tile fills the output. Where tiles are not
    alike, `sides` are their own, and `tile` is the largest.
    """

    size: int
    canvas: int
    tile: int
    origins: tuple[int, ...]
    seams: tuple[tuple[int, int], ...]
    sides: tuple[int, ...] = ()

    def stop(self, index: int) -> int:
        """Where tile `index` ends."""
        return self.origins[index] + (self.sides[index] if self.sides else self.tile)

    def covered(self, start: int, stop: int) -> int:
        """Pixels of all tiles that show something from `start` to `stop`."""
        spans = [(origin, self.stop(index)) for index, origin in enumerate(self.origins)]
        return sum(end - origin for origin, end in spans if origin < stop and end > start)

    @property
    def overlap(self) -> int:
        """The least that two neighbouring tiles share, 0 with one tile."""
        return min((self.stop(index) - after for index, after in enumerate(self.origins[1:])), default=0)


@dataclass(frozen=True)
class TilePlan:
    """Equal tiles over a picture: the product of a vertical and a horizontal axis."""

    rows: Axis
    columns: Axis

    @property
    def count(self) -> int:
        """Tiles per frame."""
        return len(self.rows.origins) * len(self.columns.origins)

    @property
    def tile_pixels(self) -> int:
        return self.rows.tile * self.columns.tile

    @property
    def alike(self) -> bool:
        """Whether all tiles are of one size."""
        return not (self.rows.sides or self.columns.sides)

    @property
    def pixels(self) -> int:
        """Of all tiles of a frame."""
        return self.rows.covered(0, self.rows.canvas) * self.columns.covered(0, self.columns.canvas)

    @property
    def beyond(self) -> int:
        """Pixels that the canvas has beyond the picture."""
        return self.rows.canvas * self.columns.canvas - self.rows.size * self.columns.size

    @property
    def recomputed(self) -> float:
        """Pixels computed beyond the picture's own, as a share of them."""
        return self.pixels / (self.rows.size * self.columns.size) - 1.0


@lru_cache(maxsize=64)  # asked a dozen times a run
def automatic_overlap(info: ModelInfo) -> int:
    """Overlap when the user does not ask for one; it still grows to the grid.

    Convolutional models: what puts the seams out of reach of the cuts, 8 to 128. Others: twice the receptive field, so
    that each seam's middle is out of it, 8 to 64. Where the receptive field is not known, 16 for small convolutional
    models, else 32; not less for models that look at the whole picture: with them it is only where the nearest cut
    matters least."""
    unknown = 16 if info.small_convolutional else 32
    if info.receptive_field is None:
        return unknown
    overlap = max(unknown if info.global_context else _LEAST_OVERLAP, 2 * info.receptive_field)
    if not info.convolutional:
        return min(overlap + info.wraparound, _MOST_ATTENTION_OVERLAP)
    while overlap < MAX_OVERLAP and (overlap - _seam_width(overlap)) // 2 < info.receptive_field:
        overlap += 1
    return min(overlap, MAX_OVERLAP)


def exact_overlap(reach: int) -> int:
    """The least overlap of tiles that are, beyond their seams, what the whole picture is, but for rounding, where a
    model can see so many pixels far at most."""
    overlap = 2 * reach + 1
    while (overlap - _seam_width(overlap)) // 2 < reach:
        overlap += 1
    return overlap


def memory_saving_side(info: ModelInfo, overlap: int) -> int:
    """The smallest tile side that is not wasteful: at least 128, and at most an eighth of it overlap; a quarter, where
    the side is more than 256."""
    side = min(_WASTEFUL * overlap, max(_LARGE, _WASTEFUL // 2 * overlap))
    return round_up(max(_SMALLEST_AUTOMATIC, side, info.minimum), info.alignment)


def smallest_side(info: ModelInfo) -> int:
    """The smallest tile side that the model takes: its minimum on its grid."""
    return round_up(max(1, info.minimum), info.alignment)


def plan_tiles(
    height: int,
    width: int,
    info: ModelInfo,
    *,
    max_pixels: int | None = None,
    max_side: int | None = None,
    overlap: int | None = None,
) -> TilePlan:
    """The plan with the least recomputed pixels whose tiles stay within `max_pixels` and `max_side`.

    `overlap` is a lower bound (None: automatic, and then at most half of small tiles); it grows to keep tiles on the
    grid. A tile never gets smaller than the model's minimum, so the result can exceed `max_pixels` when that is
    less than the smallest tile: whoever sets it finds out from the plan. Raises `BadOptionError` when `max_side` is
    below the model's minimum or leaves no room for an `overlap` asked for.
    """
    least = smallest_side(info)
    if max_side is not None and max_side < least:
        raise BadOptionError(
            f"tile size is {max_side}; {info.name} needs tiles of at least {least} pixels. "
            f"Choose {least} or more, or 0 for automatic"
        )
    if overlap is None:
        overlap = automatic_overlap(info)
        room = min(side for side in (max_side, math.isqrt(max_pixels) if max_pixels else None, 1 << 30) if side)
        half = max(least, room) // 2
        if overlap > half:
            overlap = _round_down(half, info.alignment)
        if max_side is not None and round_up(overlap, info.alignment) >= _round_down(max_side, info.alignment):
            overlap = 0  # tiles of a single window: nothing to share
    elif max_side is not None and round_up(overlap, info.alignment) >= _round_down(max_side, info.alignment):
        raise BadOptionError(
            f"overlap is {overlap} and tile size {max_side}; the overlap must be smaller than the tile. "
            f"Choose an overlap below {_round_down(max_side, info.alignment)} or a larger tile"
        )

    if info.square:
        return _plan_square(height, width, info, max_pixels, max_side, overlap)
    rows = _axis_choices(height, info, max_side, overlap)
    columns = _axis_choices(width, info, max_side, overlap)
    fits = [
        (r * c, nr * nc, nr, nc) for nr, r in rows for nc, c in columns if max_pixels is None or r * c <= max_pixels
    ]
    if fits:
        # least pixels computed; at equality the fewest tiles
        _, _, nr, nc = min(fits, key=lambda f: (f[0] * f[1], f[1]))
    else:
        nr, nc = rows[-1][0], columns[-1][0]
    return TilePlan(
        rows=_axis(height, info, nr, dict(rows)[nr], overlap),
        columns=_axis(width, info, nc, dict(columns)[nc], overlap),
    )


def plan_fixed(height: int, width: int, info: ModelInfo, tile: tuple[int, int], overlap: int | None = None) -> TilePlan:
    """The plan whose tiles are exactly `tile` (height, width), as few as share at least `overlap` (None: automatic).

    The tile's sides lie on the model's grid and are larger than the overlap. Where the picture is smaller, its canvas
    is extended to the tile.
    """
    overlap = automatic_overlap(info) if overlap is None else overlap
    return TilePlan(
        rows=_axis(height, info, None, tile[0], overlap), columns=_axis(width, info, None, tile[1], overlap)
    )


def plan_bands(height: int, width: int, info: ModelInfo, count: int, overlap: int) -> TilePlan | None:
    """The plan of `count` equal tiles as wide as the picture, one below the other, of which neighbours share at least
    `overlap` rows. None where that is more than a quarter of one, and where the model takes no such tiles."""
    side = _least_side(_canvas(height, info), count, info, overlap)
    if info.square or count < 2 or side > _whole(height, info) or _BAND * overlap > side:
        return None
    columns = _axis(width, info, 1, _whole(width, info), overlap)
    rows = _axis(height, info, count, side, overlap)
    return TilePlan(rows, columns) if len(rows.origins) == count else None


def plan_around(height: int, width: int, info: ModelInfo, around: Around) -> TilePlan | None:
    """The plan with one tile for all that changes where the box does, and others for what does not. None where that
    tile would be the whole picture.

    The others show nothing of the box, and the one in the middle fills all of the result that a model sees from it,
    whose receptive field is within half of the overlap.
    """
    (top, bottom, left, right), overlap = around
    rows, columns = (
        _axis_around(height, info, (top, bottom), overlap),
        _axis_around(width, info, (left, right), overlap),
    )
    return TilePlan(rows, columns) if rows.sides or columns.sides else None


def _axis_around(size: int, info: ModelInfo, part: tuple[int, int], overlap: int) -> Axis:
    """At most three tiles: before the `part` (start, stop), around it, and after it."""
    g, canvas = info.alignment, _canvas(size, info)
    shared = round_up(max(overlap, 1), g)
    least = max(smallest_side(info), 2 * shared)
    before, after = _round_down(part[0], g), round_up(part[1], g)
    spans = [(0, before)] if before >= least else []
    rest = [(after, canvas)] if canvas - after >= least else []
    start, stop = before - shared if spans else 0, after + shared if rest else canvas
    if not (spans or rest) or stop - start < smallest_side(info):
        return _axis(size, info, 1, _whole(size, info), overlap)
    spans += [(start, stop), *rest]
    width = _seam_width(shared)
    seams = [b[0] + (a[1] - b[0] - width) // 2 for a, b in pairwise(spans)]
    sides = tuple(end - begin for begin, end in spans)
    return Axis(
        size=size,
        canvas=canvas,
        tile=max(sides),
        origins=tuple(begin for begin, _ in spans),
        seams=tuple((seam, seam + width) for seam in seams),
        sides=sides,
    )


def _plan_square(
    height: int, width: int, info: ModelInfo, max_pixels: int | None, max_side: int | None, overlap: int
) -> TilePlan:
    """For models that take only square pictures: one side for both axes, the one with the least pixels computed."""
    limit = math.isqrt(max_pixels) if max_pixels else 1 << 30
    limit = max(limit, 2 * round_up(overlap, info.alignment), smallest_side(info))
    limit = _round_down(min(limit, max_side or limit), info.alignment)
    sides = [tile for _, tile in _axis_choices(max(height, width), info, limit, overlap)]
    plans = [plan_fixed(height, width, info, (side, side), overlap) for side in sides]
    return min(plans, key=lambda plan: (plan.count * plan.tile_pixels, plan.count))


def _axis_choices(size: int, info: ModelInfo, max_side: int | None, overlap: int) -> list[tuple[int, int]]:
    """Every (count, tile side) worth considering along one axis, largest tile first, down to the smallest allowed."""
    whole, canvas = _whole(size, info), _canvas(size, info)
    most = min(canvas, max_side or canvas)
    # a tile that is mostly overlap multiplies the work: stop before, but never with nothing to offer
    enough = max(smallest_side(info), 2 * round_up(overlap, info.alignment))
    choices = [(1, whole)] if max_side is None or whole <= max_side else []
    count = 2
    while True:
        least = _least_side(canvas, count, info, overlap)
        tile = _friendly_side(least, info, most)
        if tile <= most and (not choices or tile < choices[-1][1]):
            choices.append((count, tile))
        if choices and min(least, whole) <= enough:
            return choices
        count += 1


def _least_side(canvas: int, count: int, info: ModelInfo, overlap: int) -> int:
    """The least side with which `count` equal tiles on the grid cover `canvas`, sharing at least `overlap`."""
    g = info.alignment
    shared = _ceil_div(overlap, g)
    return max(g * _ceil_div(canvas // g + (count - 1) * shared, count), smallest_side(info))


def _friendly_side(side: int, info: ModelInfo, most: int) -> int:
    """`side` rounded up to what kernels like, where the grid leaves the choice and `most` the room."""
    friendly = round_up(side, math.lcm(info.alignment, _FRIENDLY)) if info.alignment < _FRIENDLY else side
    return friendly if friendly <= most else side


def _axis(size: int, info: ModelInfo, count: int | None, tile: int, overlap: int) -> Axis:
    """Lay tiles of side `tile` over `size` pixels: `count` of them, or as few as the overlap allows when None."""
    if tile >= _whole(size, info):
        return Axis(size=size, canvas=tile, tile=tile, origins=(0,), seams=())
    g = info.alignment
    canvas = _canvas(size, info)
    spare = (canvas - tile) // g
    if count is None:
        count = 1 + _ceil_div(spare, max(1, tile // g - _ceil_div(overlap, g)))
    origins = tuple(g * (i * spare // (count - 1)) for i in range(count))
    seams: list[tuple[int, int]] = []
    for before, after in pairwise(origins):
        shared = before + tile - after
        width = min(_seam_width(shared, info.mixes_all), shared, after - before)
        start = after + (shared - width) // 2
        if has_room(shared, info.wraparound):  # the middle between what the tiles show of their own
            start += (info.wraparound // 2) * ((after == origins[-1]) - (before == 0))
        start = max(start, seams[-1][1] if seams else 0)  # seams never cross
        seams.append((start, start + width))
    return Axis(size=size, canvas=canvas, tile=tile, origins=origins, seams=tuple(seams))


def has_room(shared: int, wraparound: int) -> bool:
    """Whether tiles that share `shared` pixels can spare `wraparound` of them."""
    return 0 < 4 * wraparound <= shared


def _seam_width(shared: int, wide: bool = False) -> int:
    """The pixels over which tiles that share `shared` pixels are blended."""
    narrow = min(max(1, shared // _SEAM_SHARE), _WIDEST_SEAM)
    return max(narrow, shared - 2 * _FROM_CUTS) if wide else narrow


def _whole(size: int, info: ModelInfo) -> int:
    """What the model takes of a picture in one piece: it fills its windows itself, as it was trained to."""
    return round_up(max(size, info.minimum), info.multiple_of)


def _canvas(size: int, info: ModelInfo) -> int:
    """What equal tiles on the grid cover."""
    return round_up(max(size, info.minimum), info.alignment)


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def round_up(value: int, multiple: int) -> int:
    """The least multiple of `multiple` that is not below `value`."""
    return _ceil_div(value, multiple) * multiple


def _round_down(value: int, multiple: int) -> int:
    return value // multiple * multiple
