"""How a run is cut up: the tile plan and the batch, within the memory there is and what the run has found out.

The fewest pixels are computed where the whole picture goes through the model in one piece. Smaller tiles compete with
that where a pixel was measured to be cheaper in them, and tiles of the shapes that a compiled forward takes, each at
their own price.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from ..api.model_info import ModelInfo
from ..api.options import Level, UpscaleOptions
from ..backends.shapes import TileShapes
from ..memory import MemoryCost, affordable_pixels
from ..models.throughput import UNKNOWN_THROUGHPUT, Throughput
from ..tiling.plan import (
    Around,
    TilePlan,
    automatic_overlap,
    memory_saving_side,
    plan_around,
    plan_fixed,
    plan_tiles,
    round_up,
)

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

# Tiles have up to so many times the pixels of the picture: those that are not wasteful less than twice. Their sides are
# rounded up to what kernels like.
_ENOUGH, _KERNELS_STEP = 4, 8

Compiled = Mapping[TileShapes, float]
"""Tile shapes that can run compiled, with what a pixel costs so (eager: 1)."""


@dataclass(frozen=True)
class Schedule:
    """How frames are computed until something makes the run think again: tiles, and how many of them at once.

    `frames_on_device`: frames that the model's pictures have to be made into are made where the model computes, not
    where the result lies. `keeps_tiles`: what came of a frame's tiles is kept, for those of the next one that are the
    same.
    """

    plan: TilePlan
    batch: int
    frames_on_device: bool = False
    keeps_tiles: bool = False

    @property
    def pixels(self) -> int:
        """Input pixels of one forward."""
        return self.batch * self.plan.tile_pixels

    @property
    def tile(self) -> tuple[int, int]:
        """(height, width) of every tile, in input pixels."""
        return self.plan.rows.tile, self.plan.columns.tile


@dataclass(frozen=True)
class Limits:
    """What a run found out the hard way. Its later schedules keep to it, in whatever mode.

    `max_pixels`: a forward of more input pixels ran out of memory. `one_by_one`: the model fails on several tiles at
    once. `frames_on_device`: there was room for making frames there so far; `keeps_tiles`: and for keeping tiles.
    `moving`: nothing but a part of the frames changes from one to the next.
    """

    max_pixels: int | None = None
    one_by_one: bool = False
    frames_on_device: bool = True
    keeps_tiles: bool = True
    moving: Around | None = None

    def after_out_of_memory(self, schedule: Schedule) -> Limits:
        """Half of what `schedule` gives a forward: fewer tiles at once, or smaller ones where it was a single one."""
        tiles = max(1, schedule.batch // 2)
        pixels = tiles * schedule.plan.tile_pixels if schedule.batch > 1 else schedule.plan.tile_pixels // 2
        return replace(self, max_pixels=max(1, pixels), frames_on_device=False, keeps_tiles=False)


@dataclass(frozen=True)
class Budget:
    """What a forward costs on `device`, and the bytes that are free there beside the weights and what the run holds,
    with `frames_on_device` what it takes to make frames there, too, with `keeps_tiles` what it takes to keep those of a
    frame. `tile_pixels`: the most input pixels of a tile, where it is computed in other memory than that. `beyond`:
    what a pixel beyond the picture costs besides being computed, in pixels."""

    cost: MemoryCost
    free_bytes: int
    device: torch.device
    frames_on_device: bool = False
    keeps_tiles: bool = False
    tile_pixels: int | None = None
    beyond: float = 0.0


class _CostedPlan(NamedTuple):
    """A plan, its price in eager pixels a frame (at the best size of forwards), and the compiled forward's shapes that
    give it that price, if any."""

    plan: TilePlan
    price: float
    shapes: TileShapes | None


def least_pixels(info: ModelInfo) -> int:
    """Input pixels of the first tiles at the least, however little memory seems free."""
    return max(_LEAST_SIDES[0], min(4 * automatic_overlap(info), _LEAST_SIDES[1])) ** 2


def enough_pixels(size: tuple[int, int], pictures: int, info: ModelInfo, options: UpscaleOptions) -> int | None:
    """Input pixels of a forward, beyond which no more of them make another schedule of pictures of `size` (height,
    width), so many together, by eager forwards: several times what the whole picture has, since tiles that overlap have
    more. None where that is not known: tiles that the user asked for may be mostly overlap."""
    if options.tile or options.overlap or info.square:
        return None
    step = math.lcm(info.alignment, _KERNELS_STEP)
    return _ENOUGH * pictures * math.prod(round_up(max(side, info.minimum), step) for side in size)


class Scheduler:
    """Plans for frames of one size in one execution mode. It only answers: what it is asked changes nothing.

    `size` is a frame's (height, width), its padding included; `pictures` how many pictures go through the model
    together at most (frames in flight, three for each where colours go one by one). `throughput` is the model's, eager.
    `schedule` raises `BadOptionError` for a tile or overlap that cannot be.
    """

    def __init__(
        self,
        size: tuple[int, int],
        pictures: int,
        info: ModelInfo,
        options: UpscaleOptions,
        budget: Budget,
        throughput: Throughput = UNKNOWN_THROUGHPUT,
    ) -> None:
        self._size, self._pictures, self._info, self._options = size, pictures, info, options
        self._budget = budget
        self._throughput = throughput if throughput.settled else UNKNOWN_THROUGHPUT
        affordable = affordable_pixels(budget.cost, budget.free_bytes, self._share(), budget.device)
        self._affordable = max(least_pixels(info), affordable)
        most = budget.tile_pixels
        self._most_of_tile = self._affordable if most is None else max(least_pixels(info), min(most, affordable))
        self._last: tuple[tuple[Compiled, Limits], Schedule] | None = None  # mostly it is asked the same again

    @property
    def bound_by_memory(self) -> bool:
        """Whether more memory might have made another schedule."""
        pixels = self._pictures * math.prod(round_up(side, self._info.alignment) for side in self._size)
        side = self._max_side()
        wanted = min(pixels, self._pictures * side * side) if side else pixels
        return self._affordable < wanted or self._most_of_tile < wanted // self._pictures

    def schedule(self, compiled: Compiled, limits: Limits) -> Schedule:
        """The cheapest schedule there is within the limits, with what is `compiled` by now."""
        asked, last = (compiled, limits), self._last  # runs on other threads may ask as well
        if last is None or last[0] != asked:
            plan = self._best(compiled, limits).plan
            on_device = self._budget.frames_on_device and limits.frames_on_device
            keeps = self._budget.keeps_tiles and limits.keeps_tiles
            last = self._last = asked, Schedule(plan, self.batch(plan, compiled, limits), on_device, keeps)
        return last[1]

    def batch(self, plan: TilePlan, compiled: Compiled, limits: Limits) -> int:
        """How many of the plan's tiles to compute at once: what the device has use for, evened out over the pictures'
        tiles."""
        total, most = self._pictures * plan.count, max(1, self._room(limits) // plan.tile_pixels)
        shapes = self._costed(plan, compiled, limits).shapes
        appetite = shapes.batch if shapes and shapes.fixed else self._appetite(plan, min(total, most))
        bounds = (total, most, appetite, shapes.batch if shapes else most)
        most = 1 if limits.one_by_one or not plan.alike else max(1, min(bounds))
        if shapes and shapes.fixed:  # its programs are for so many, and for single ones
            return most
        return -(-total // -(-total // most))

    def improves(self, schedule: Schedule, compiled: Compiled, limits: Limits, share_left: float = 1.0) -> bool:
        """Whether all of the work in another plan is cheaper than the share of it that is left is in this one."""
        best, now = self._best(compiled, limits), self._costed(schedule.plan, compiled, limits)
        return best.price < share_left * now.price

    def tile_to_compile(self, limits: Limits, at_once: int = 1, longest: int | None = None) -> tuple[int, int]:
        """(height, width) of the tiles this run would have if each were compiled for by itself: not so large that no
        other picture could use them, and, where so many are computed `at_once`, not so large that there are fewer. With
        `longest`, the longest side there may be, they are for other pictures as well, whatever their sizes."""
        most = min(self._max_side() or _LARGEST_COMPILED, _LARGEST_COMPILED)
        height, width = self._tile_within(most, limits, at_once)
        if longest and max(height, width) > longest:
            height, width = self._tile_within(min(most, longest), limits, at_once)
        if longest and self._info.convolutional:  # a side off the grid is good for pictures of just that size
            step = self._info.alignment
            return height // step * step or height, width // step * step or width
        return height, width

    def worth_compiling(
        self, schedule: Schedule, possible: Compiled, compiled: Compiled, limits: Limits
    ) -> TileShapes | None:
        """The tile shapes that would make the run cheapest if they were compiled; None where none would help."""
        best, now = self._best({**possible, **compiled}, limits), self._costed(schedule.plan, compiled, limits)
        enough = _CLEARLY if compiled else 1.0  # beside what is compiled already, a little gain is none
        return best.shapes if best.shapes in possible and best.price < enough * now.price else None

    def overlap_warning(self, plan: TilePlan) -> str | None:
        """Tells when tiles turned out too small for the overlap that suits the model."""
        suits = automatic_overlap(self._info)
        cut = [axis for axis in (plan.rows, plan.columns) if len(axis.origins) > 1]
        if self._options.overlap or all(axis.overlap >= suits for axis in cut):
            return None
        return (
            f"tiles of {plan.columns.tile}x{plan.rows.tile} leave room for an overlap of only "
            f"{min(axis.overlap for axis in cut)} pixels where {suits} suit {self._info.name}: seams may show; "
            "allow larger tiles"
        )

    def _tile_within(self, most: int, limits: Limits, at_once: int) -> tuple[int, int]:
        """(height, width) of tiles with no side longer than `most`, of which there are `at_once` if that can be."""
        plan = self._fastest_plan(most, self._info, limits)
        for side in self._smaller_sides(plan) if at_once > 1 else ():
            if self._pictures * plan.count >= at_once:
                break
            plan = self._plan(side, self._info, limits)
        return plan.rows.tile, plan.columns.tile

    def _room(self, limits: Limits) -> int:
        """The most input pixels of a forward."""
        return min(self._affordable, limits.max_pixels or self._affordable)

    def _room_of_tile(self, limits: Limits) -> int:
        """The most input pixels of a tile."""
        return min(self._most_of_tile, self._room(limits))

    def _share(self) -> Level:
        """A model that looks at the whole picture gets all the room there is, unless memory is to be saved."""
        level = self._options.level
        return "speed" if self._info.global_context and level == "balanced" else level

    def _best(self, compiled: Compiled, limits: Limits) -> _CostedPlan:
        """The cheapest plan: the best one for any forward, or one in tiles that a compiled forward takes; where
        one part of the frames moves, that with tiles around it."""
        if limits.moving and limits.keeps_tiles and (around := self._plan_around(limits.moving, limits)):
            return self._costed(around, compiled, limits)
        compiled_plans = (self._plan_in(shapes, limits) for shapes in compiled)
        plans = [self._fastest_plan(self._max_side(), self._info, limits), *filter(None, compiled_plans)]
        return min((self._costed(plan, compiled, limits) for plan in plans), key=lambda costed: costed.price)

    def _max_side(self) -> int | None:
        """The user's limit, or the level's."""
        options, info = self._options, self._info
        if options.tile or options.level != "memory":
            return options.tile or None
        return memory_saving_side(info, options.overlap or automatic_overlap(info))

    def _fastest_plan(self, max_side: int | None, info: ModelInfo, limits: Limits) -> TilePlan:
        """The plan of the fewest pixels, or one of smaller tiles that is clearly cheaper."""
        largest = self._plan(max_side, info, limits)
        sides = self._smaller_sides(largest) if self._throughput.points else ()
        smaller = (self._plan(side, info, limits) for side in sides)
        costed = [self._costed(plan, {}, limits) for plan in smaller]
        best = min(costed, key=lambda plan: plan.price, default=None)
        return best.plan if best and best.price < _CLEARLY * self._costed(largest, {}, limits).price else largest

    def _smaller_sides(self, plan: TilePlan) -> Iterator[int]:
        """Sides of tiles to try in place of `plan`'s: down to where they get wasteful, and not for a model that had
        better see the whole picture."""
        overlap, alignment = self._options.overlap or automatic_overlap(self._info), self._info.alignment
        least = max(memory_saving_side(self._info, overlap), round_up(overlap, alignment) + alignment)
        side = float(max(plan.rows.tile, plan.columns.tile))
        while not self._info.global_context and (side := side / _STEP) >= least:
            yield int(side)

    def _plan(self, max_side: int | None, info: ModelInfo, limits: Limits) -> TilePlan:
        """Within what is affordable; the whole picture in one where that fits."""
        overlap = self._options.overlap or None
        return plan_tiles(*self._size, info, max_pixels=self._room_of_tile(limits), max_side=max_side, overlap=overlap)

    def _plan_around(self, moving: Around, limits: Limits) -> TilePlan | None:
        plan = plan_around(*self._size, self._info, moving)
        return plan if plan and plan.tile_pixels <= self._room_of_tile(limits) else None

    def _plan_in(self, shapes: TileShapes, limits: Limits) -> TilePlan | None:
        """The plan in tiles of these shapes; None where limits or memory do not allow it."""
        max_side, overlap = self._max_side(), self._options.overlap or automatic_overlap(self._info)
        if shapes.fixed:
            height, width = shapes.most
            too_long = max_side and max(height, width) > round_up(max_side, self._info.alignment)
            if height * width > self._room_of_tile(limits) or too_long:
                return None
            if not all(self._fits(*axis, overlap) for axis in zip((height, width), self._size, strict=True)):
                return None
            return plan_fixed(*self._size, self._info, (height, width), overlap)
        on_steps = replace(self._info, multiple_of=shapes.step)  # the whole picture, too
        most = min(shapes.most)
        plan = self._fastest_plan(min(max_side or most, most), on_steps, limits)
        return plan if shapes.fit((1, 1, plan.rows.tile, plan.columns.tile)) else None

    def _fits(self, side: int, size: int, overlap: int) -> bool:
        """Whether `size` pixels of the picture can be cut into tiles of that side, or filled up to one."""
        whole = round_up(max(size, self._info.minimum), self._info.multiple_of)
        if side < whole:
            return side > overlap + self._info.alignment and side % self._info.alignment == 0
        # a convolution has zeros beyond the edges: filled up to the tile, the picture would have other borders
        return side == whole or not self._info.convolutional

    def _appetite(self, plan: TilePlan, most: int) -> int:
        """How many of the plan's tiles, of at most so many, the device computes best at once."""
        if self._options.level == "memory":
            return 1
        if self._throughput.points:
            return self._throughput.best_count(plan.tile_pixels, most)
        return _BATCH_PIXELS.get(self._budget.device.type, 1 << 20) // plan.tile_pixels

    def _costed(self, plan: TilePlan, compiled: Compiled, limits: Limits) -> _CostedPlan:
        """The plan at the best price there is for its tiles. That of a compiled forward was measured where it is used,
        at its own size."""
        shape = (1, 1, plan.rows.tile, plan.columns.tile)
        most = min(self._pictures * plan.count, self._room(limits) // plan.tile_pixels)
        together = 1 if limits.one_by_one else self._throughput.best_count(plan.tile_pixels, most)
        eager = self._throughput.relative(together * plan.tile_pixels)
        prices = [(eager, None), *((cost, shapes) for shapes, cost in compiled.items() if shapes.fit(shape))]
        cost, shapes = min(prices, key=lambda price: price[0])
        return _CostedPlan(plan, cost * (plan.pixels + self._budget.beyond * plan.beyond), shapes)
