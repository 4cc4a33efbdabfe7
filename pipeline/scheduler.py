"""How a run is cut up: tiles and batches within the memory there is, and smaller ones when there was less.

The fewest pixels are computed where the whole picture goes through the model in one piece. Smaller tiles compete with
that where a pixel was measured to be cheaper in them, and tiles of the shapes that a compiled forward takes, each at
their own price.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch

from ..api.model_info import ModelInfo
from ..api.options import Level, UpscaleOptions
from ..compiling.shapes import TileShapes
from ..memory import MemoryCost, affordable_pixels
from ..models.throughput import UNKNOWN_THROUGHPUT, Throughput
from ..tiling.plan import TilePlan, automatic_overlap, memory_saving_side, plan_fixed, plan_tiles, round_up

# Where nothing was measured: beyond this many pixels a batch no longer fills the device better. A CPU is full with one
# small tile.
_BATCH_PIXELS = {"cuda": 1 << 20, "cpu": 1 << 14}

# Four overlaps, but within these, are the side of the first tiles at least, however little memory seems free: smaller
# ones are for when it really ran out.
_LEAST_SIDES = (64, 128)

# A tile compiled for by itself: larger ones gain nothing more, and fewer pictures are as large.
_LARGEST_COMPILED = 1024

# The whole picture in one piece is left for smaller tiles where they are clearly cheaper; sides to choose from.
_CLEARLY = 0.9
_STEP = math.sqrt(2)


class _CostedPlan(NamedTuple):
    """A plan, its price in eager pixels a frame (at the best size of forwards), and the compiled forward's shapes that
    give it that price, if any."""

    plan: TilePlan
    price: float
    shapes: TileShapes | None


class Scheduler:
    """The tile plan and the batch of a run, which `shrink` makes smaller.

    `size` is a frame's (height, width), `pictures` how many pictures go through the model together at most (frames in
    flight, three for each where colours go one by one). `throughput` is that of the model, eager. `compiled` are the
    tile shapes that can run compiled, with what a pixel costs so (eager: 1). Raises `BadOptionError` for a tile or
    overlap that cannot be."""

    def __init__(
        self,
        size: tuple[int, int],
        pictures: int,
        info: ModelInfo,
        options: UpscaleOptions,
        cost: MemoryCost,
        free_bytes: int,
        device: torch.device,
        throughput: Throughput = UNKNOWN_THROUGHPUT,
        compiled: Mapping[TileShapes, float] | None = None,
    ) -> None:
        self._size, self._pictures, self._info, self._options, self._device = size, pictures, info, options, device
        self._throughput = throughput if throughput.settled else UNKNOWN_THROUGHPUT
        least = max(_LEAST_SIDES[0], min(4 * automatic_overlap(info), _LEAST_SIDES[1]))
        self._affordable = max(least * least, affordable_pixels(cost, free_bytes, self._share(), device))
        self._batch_limit: int | None = None
        self._adopt(compiled or {})

    def adopt(self, compiled: Mapping[TileShapes, float], share_left: float = 1.0) -> bool:
        """Plan anew for what is compiled by now, if all of the work is cheaper so than the share of it left is now."""
        if self._best(compiled).price >= share_left * self._costed(self.plan, compiled).price:
            self._compiled = dict(compiled)
            shapes = self._costed(self.plan, compiled).shapes
            if shapes:
                self.batch = min(self.batch, shapes.batch)
            return False
        self._adopt(compiled)
        return True

    def tile_to_compile(self) -> tuple[int, int]:
        """(height, width) of the tiles this run would have if each were compiled for by itself: not so large that no
        other picture could use them."""
        plan = self._plan_at_pace(min(self._max_side() or _LARGEST_COMPILED, _LARGEST_COMPILED), self._info)
        return plan.rows.tile, plan.columns.tile

    def worth_compiling(self, possible: Mapping[TileShapes, float]) -> TileShapes | None:
        """The tile shapes that would make the run cheapest if they were compiled; None where none would help."""
        best = self._best({**possible, **self._compiled})
        now = self._costed(self.plan, self._compiled)
        return best.shapes if best.shapes in possible and best.price < now.price else None

    def one_by_one(self) -> None:
        """A tile a batch from now on, for models that do not take several pictures at once."""
        self._batch_limit = self.batch = 1

    def overlap_warning(self) -> str | None:
        """Tells when tiles turned out too small for the overlap that suits the model."""
        suits = automatic_overlap(self._info)
        cut = [axis for axis in (self.plan.rows, self.plan.columns) if len(axis.origins) > 1]
        if self._options.overlap or all(axis.overlap >= suits for axis in cut):
            return None
        return (
            f"tiles of {self.plan.columns.tile}x{self.plan.rows.tile} leave room for an overlap of only "
            f"{min(axis.overlap for axis in cut)} pixels where {suits} suit {self._info.name}: seams may show; "
            "allow larger tiles"
        )

    def shrink(self) -> bool:
        """Halve the pixels of a forward: fewer tiles a batch first, then smaller tiles. False: there is no less."""
        if self.batch > 1:
            self.batch = self._even_batch(self.batch // 2)
            self._affordable = self.batch * self.plan.tile_pixels
            return True
        before = self.plan.tile_pixels
        self._affordable = max(1, before // 2)
        self._adopt(self._compiled)
        return self.plan.tile_pixels < before

    def _adopt(self, compiled: Mapping[TileShapes, float]) -> None:
        self._compiled = dict(compiled)
        self.plan = self._best(compiled).plan
        self.batch = self._even_batch(self._affordable // self.plan.tile_pixels)

    def _share(self) -> Level:
        """A model that looks at the whole picture gets all the room there is, unless memory is to be saved."""
        level = self._options.level
        return "speed" if self._info.global_context and level == "balanced" else level

    def _best(self, compiled: Mapping[TileShapes, float]) -> _CostedPlan:
        """The cheapest plan: the best one for any forward, or one in tiles that a compiled forward takes."""
        plans = [self._plan_at_pace(self._max_side(), self._info), *filter(None, map(self._plan_in, compiled))]
        return min((self._costed(plan, compiled) for plan in plans), key=lambda offer: offer.price)

    def _max_side(self) -> int | None:
        """The user's limit, or the level's."""
        options, info = self._options, self._info
        if options.tile or options.level != "memory":
            return options.tile or None
        return memory_saving_side(info, options.overlap or automatic_overlap(info))

    def _plan_at_pace(self, max_side: int | None, info: ModelInfo) -> TilePlan:
        """The plan of the fewest pixels, or one of smaller tiles that is clearly cheaper."""
        largest = self._plan(max_side, info)
        offers = [self._costed(self._plan(side, info), {}) for side in self._smaller_sides(largest)]
        best = min(offers, key=lambda offer: offer.price, default=None)
        return best.plan if best and best.price < _CLEARLY * self._costed(largest, {}).price else largest

    def _smaller_sides(self, plan: TilePlan) -> Iterator[int]:
        """Sides of tiles to try in place of `plan`'s: down to where they get wasteful, and not for a model that had
        better see the whole picture."""
        overlap, alignment = self._options.overlap or automatic_overlap(self._info), self._info.alignment
        least = max(memory_saving_side(self._info, overlap), round_up(overlap, alignment) + alignment)
        side = float(max(plan.rows.tile, plan.columns.tile))
        while self._throughput.points and not self._info.global_context and (side := side / _STEP) >= least:
            yield int(side)

    def _plan(self, max_side: int | None, info: ModelInfo) -> TilePlan:
        """Within what is affordable; the whole picture in one where that fits."""
        overlap = self._options.overlap or None
        return plan_tiles(*self._size, info, max_pixels=self._affordable, max_side=max_side, overlap=overlap)

    def _plan_in(self, shapes: TileShapes) -> TilePlan | None:
        """The plan in tiles of these shapes; None where limits or memory do not allow it."""
        limit, overlap = self._max_side(), self._options.overlap or automatic_overlap(self._info)
        if shapes.fixed:
            height, width = shapes.most
            if height * width > self._affordable or (
                limit and max(height, width) > round_up(limit, self._info.alignment)
            ):
                return None
            if min(height, width) <= overlap + self._info.alignment:
                return None
            return plan_fixed(*self._size, self._info, (height, width), overlap)
        on_steps = replace(self._info, multiple_of=shapes.step)  # the whole picture, too
        most = min(shapes.most)
        plan = self._plan_at_pace(min(limit or most, most), on_steps)
        return plan if shapes.fit((1, 1, plan.rows.tile, plan.columns.tile)) else None

    def _even_batch(self, most: int) -> int:
        """At most `most` tiles and what the device has use for, evened out over the pictures' tiles."""
        total = self._pictures * self.plan.count
        compiled = self._costed(self.plan, self._compiled).shapes
        limits = (total, most, self._appetite(min(total, most)), compiled and compiled.batch, self._batch_limit)
        most = max(1, min(limit for limit in limits if limit is not None))
        return -(-total // -(-total // most))

    def _appetite(self, most: int) -> int:
        """As how many of the plan's tiles, of at most so many, the device computes best."""
        if self._options.level == "memory":
            return 1
        if self._throughput.points:
            return self._throughput.best_count(self.plan.tile_pixels, most)
        return _BATCH_PIXELS.get(self._device.type, 1 << 20) // self.plan.tile_pixels

    def _costed(self, plan: TilePlan, compiled: Mapping[TileShapes, float]) -> _CostedPlan:
        """The plan at the best price there is for its tiles. That of a compiled forward was measured where it is used,
        at its own size."""
        shape = (1, 1, plan.rows.tile, plan.columns.tile)
        most = min(self._pictures * plan.count, self._affordable // plan.tile_pixels)
        together = 1 if self._batch_limit else self._throughput.best_count(plan.tile_pixels, most)
        eager = self._throughput.relative(together * plan.tile_pixels)
        prices = [(eager, None), *((cost, shapes) for shapes, cost in compiled.items() if shapes.fit(shape))]
        cost, shapes = min(prices, key=lambda price: price[0])
        return _CostedPlan(plan, cost * plan.count * plan.tile_pixels, shapes)
