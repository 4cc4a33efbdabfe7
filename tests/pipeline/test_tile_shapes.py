"""What an engine that takes tiles of one size compiles for, and how much of what it computes lies beyond the pictures:
by plans alone, folders of mixed sizes met picture by picture."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pytest
import torch

from cudaspeed.api.model_info import ModelInfo
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.backends.shapes import TileShapes
from cudaspeed.compiling.policy import MOST_SHAPES, compilable_shapes, longest_side
from cudaspeed.memory import MemoryCost
from cudaspeed.pipeline.schedule_maker import BEYOND
from cudaspeed.pipeline.scheduler import Budget, Compiled, Limits, Schedule, Scheduler
from cudaspeed.tiling.plan import automatic_overlap, round_up

Size = tuple[int, int]

COMPILED = 0.01  # of eager's price
BUDGET = Budget(MemoryCost(0, 100.0), 1 << 40, torch.device("cpu"), beyond=BEYOND)


def model(**more: Any) -> ModelInfo:
    return ModelInfo(**{"name": "toy", "scale": 4, "in_channels": 3, "out_channels": 3, "receptive_field": 16} | more)


SWINIR = model(minimum=16, alignment=8, receptive_field=None, global_context=True)
HAT = model(minimum=16, alignment=16, receptive_field=None)
COMPACT = model(convolutional=True, small_convolutional=True, receptive_field=None)
DEEP = model(convolutional=True)
REALCUGAN = model(convolutional=True, small_convolutional=True, receptive_field=None, minimum=32, alignment=8)


def folders(count: int, seed: int) -> list[list[Size]]:
    """Of a dozen pictures each, with sides from 40 to 700."""
    draw = random.Random(seed)
    return [[(draw.randint(40, 700), draw.randint(40, 700)) for _ in range(12)] for _ in range(count)]


@dataclass(frozen=True)
class Told:
    """Of the pictures of a folder that something compiled computes: the share of their canvases that lies beyond them
    and the model's own grid, and what is computed of a pixel; and how many pictures torch is left with."""

    beyond: float
    computed: float
    left: int
    shapes: int


def picture(size: Size, info: ModelInfo, compiled: Compiled, devices: int = 1) -> tuple[Schedule, Compiled]:
    """The schedule of one, and what is compiled after it, for so many devices."""
    scheduler = Scheduler(size, 1, info, UpscaleOptions(), BUDGET)
    if len(compiled) < MOST_SHAPES:
        longest = longest_side(len(compiled), info, automatic_overlap(info))
        tile = scheduler.tile_to_compile(Limits(), devices, longest)
        (shapes,) = compilable_shapes(info, tile, one_size_only=True)
        possible = {} if shapes in compiled else {shapes: COMPILED}
        found = scheduler.worth_compiling(scheduler.schedule(compiled, Limits()), possible, compiled, Limits())
        compiled = {**compiled, **({found: COMPILED} if found else {})}
    return scheduler.schedule(compiled, Limits()), compiled


def folder(sizes: list[Size], info: ModelInfo) -> Told:
    compiled: Compiled = {}
    within = on_grid = canvases = computed = left = 0
    for size in sizes:
        made, compiled = picture(size, info, compiled)
        if not fit(made, compiled):
            left += 1
            continue
        within += math.prod(size)
        on_grid += math.prod(round_up(max(side, info.minimum), info.alignment) for side in size)
        canvases += math.prod(size) + made.plan.beyond
        computed += made.plan.pixels
    return Told(max(0.0, 1 - on_grid / canvases), computed / within, left, len(compiled))


def fit(made: Schedule, compiled: Compiled) -> bool:
    return any(shapes.fit((1, 3, *made.tile)) for shapes in compiled)


@pytest.mark.parametrize(
    ("info", "computed"),
    [(SWINIR, 1.6), (HAT, 1.65), (COMPACT, 1.5), (DEEP, 2.0), (REALCUGAN, 1.6)],
    ids=["swinir", "hat", "compact", "deep", "realcugan"],
)
def test_a_folder_of_mixed_sizes_is_compiled_for_four_times_and_little_of_it_lies_beyond_the_pictures(
    info: ModelInfo, computed: float
) -> None:
    told = [folder(sizes, info) for sizes in folders(30, seed=21)]
    assert max(one.shapes for one in told) <= 4
    beyond = sorted(one.beyond for one in told)
    assert fmean(beyond) < 0.03
    assert beyond[len(beyond) * 9 // 10] < 0.06
    assert fmean(one.computed for one in told) < computed
    assert sum(one.left for one in told) < 12 * 30 * (0.1 if info.convolutional else 1e-9)


@pytest.mark.parametrize("info", [SWINIR, COMPACT, REALCUGAN])
def test_pictures_of_one_size_are_computed_in_one_piece_by_one_program(info: ModelInfo) -> None:
    told = folder([(300, 451)] * 3, info)
    assert (told.shapes, told.left) == (1, 0)
    assert told.computed < 1.03


@pytest.mark.parametrize("info", [SWINIR, HAT, COMPACT, DEEP, REALCUGAN])
@pytest.mark.parametrize("devices", [1, 4, 8])
@pytest.mark.parametrize("size", [(150, 200), (301, 451), (700, 900), (2160, 1440)])
def test_what_one_picture_was_compiled_for_is_what_the_next_of_its_size_wants(
    info: ModelInfo, devices: int, size: Size
) -> None:
    _, once = picture(size, info, {}, devices)
    _, twice = picture(size, info, once, devices)
    assert len(once) == len(twice) == 1


@pytest.mark.parametrize("info", [SWINIR, HAT])
@pytest.mark.parametrize("size", [(40, 300), (301, 38), (17, 90), (24, 24)])
def test_a_narrow_picture_is_computed_by_what_is_as_narrow(info: ModelInfo, size: Size) -> None:
    """Along a side that one tile covers nothing is shared."""
    assert folder([size], info).left == 0


@pytest.mark.parametrize("size", [(50, 60), (72, 90), (301, 451)])
def test_a_convolutional_model_with_a_grid_takes_a_picture_beside_it(size: Size) -> None:
    made, compiled = picture(size, REALCUGAN, {})
    assert fit(made, compiled)
    assert made.plan.beyond == 0, "filled up, it would have other borders"


def test_what_was_compiled_off_the_grid_cuts_no_other_picture() -> None:
    compiled = {TileShapes.one(150, 200): COMPILED}
    for size in ((150, 400), (302, 200), (149, 200), (160, 210)):
        assert fit(Scheduler(size, 1, COMPACT, UpscaleOptions(), BUDGET).schedule(compiled, Limits()), compiled) == (
            size not in [(149, 200)]
        )
        made = Scheduler(size, 1, REALCUGAN, UpscaleOptions(), BUDGET).schedule(compiled, Limits())
        assert fit(made, compiled) == (size == (150, 400))


def test_what_lies_beyond_the_picture_costs_more_than_what_is_computed_twice() -> None:
    """A tile that is a third too wide, or two that share a third more."""
    compiled = {TileShapes.one(200, 400): COMPILED, TileShapes.one(200, 200): COMPILED}
    schedules = [
        Scheduler((200, 300), 1, SWINIR, UpscaleOptions(), budget).schedule(compiled, Limits())
        for budget in (Budget(BUDGET.cost, BUDGET.free_bytes, BUDGET.device), BUDGET)
    ]
    assert [made.tile for made in schedules] == [(200, 400), (200, 200)]
