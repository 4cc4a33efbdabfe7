"""The tile plan: equal tiles on the model's grid that cover the picture, whatever its size and the model's demands."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest

from cudaspeed.api.errors import BadOptionError
from cudaspeed.api.model_info import ModelInfo
from cudaspeed.api.samples import PICTURES, Samples
from cudaspeed.tiling.plan import (
    Around,
    Axis,
    TilePlan,
    automatic_overlap,
    exact_overlap,
    memory_saving_side,
    plan_around,
    plan_tiles,
    smallest_side,
)


def info(**more) -> ModelInfo:
    return ModelInfo("toy", scale=2, in_channels=3, out_channels=3, **more)


SMALL = info(small_convolutional=True)
WINDOWED = info(multiple_of=16, minimum=16, alignment=16)


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


@dataclass(frozen=True)
class Asked:
    """One call of `plan_tiles`."""

    height: int
    width: int
    info: ModelInfo
    max_pixels: int | None = None
    max_side: int | None = None
    overlap: int | None = None

    def plan(self) -> TilePlan:
        return plan_tiles(
            *(self.height, self.width, self.info),
            max_pixels=self.max_pixels,
            max_side=self.max_side,
            overlap=self.overlap,
        )

    @property
    def whole(self) -> tuple[int, int]:
        """What the model takes of the whole picture."""
        t = self.info
        height, width = (round_up(max(size, t.minimum), t.multiple_of) for size in (self.height, self.width))
        return (max(height, width),) * 2 if t.square else (height, width)


def some_asked(count: int) -> Iterator[Asked]:
    """Random calls, the same on every run; one in three limits nothing."""
    rng = random.Random(2024)
    for _ in range(count):
        multiple = rng.choice([1, 1, 2, 4, 7, 8, 12, 16, 64, 128])
        demands = info(
            multiple_of=multiple,
            minimum=rng.choice([1, 1, 8, 16, 64, 100]),
            square=rng.random() < 0.25,
            alignment=multiple * rng.choice([1, 1, 2, 3, 4, 8]),
            small_convolutional=rng.random() < 0.5,
            global_context=(mixes_all := rng.random() < 0.25),
            samples=Samples(limits=None) if mixes_all else PICTURES,
        )
        height, width = (rng.choice([rng.randint(1, 40), rng.randint(1, 300), rng.randint(1, 3000)]) for _ in "hw")
        yield Asked(
            *(height, width, demands),
            max_pixels=rng.choice([None, rng.randint(1, 10**4), rng.randint(1, 10**6)]),
            max_side=rng.choice([None, rng.randint(1, 300), rng.randint(16, 2048)]),
            overlap=rng.choice([None, None, 0, rng.randint(1, 128)]),
        )


@pytest.fixture(scope="module")
def plans() -> list[tuple[Asked, TilePlan]]:
    """What is planned for every call that can be honoured; those that cannot say so, and none runs for ever."""
    found = []
    for asked in some_asked(4000):
        try:
            found.append((asked, asked.plan()))
        except BadOptionError:
            assert asked.max_side is not None, f"there is always a plan without a tile size: {asked}"
            least, overlap = smallest_side(asked.info), round_up(asked.overlap or 0, asked.info.alignment)
            assert asked.max_side < max(least, overlap + asked.info.alignment), asked
    assert len(found) > 3000
    assert sum(plan.count > 1 for _, plan in found) > 1500
    return found


@pytest.fixture(scope="module")
def axes(plans: list[tuple[Asked, TilePlan]]) -> list[tuple[Asked, Axis]]:
    return [(asked, axis) for asked, plan in plans for axis in (plan.rows, plan.columns)]


def test_tiles_are_what_the_model_takes(plans: list[tuple[Asked, TilePlan]]) -> None:
    for asked, plan in plans:
        for tile in (plan.rows.tile, plan.columns.tile):
            assert tile % asked.info.multiple_of == 0, asked
            assert tile >= asked.info.minimum, asked
        assert not asked.info.square or plan.rows.tile == plan.columns.tile, asked


def test_tiles_cover_the_picture_and_its_canvas(plans: list[tuple[Asked, TilePlan]]) -> None:
    for asked, plan in plans:
        assert (plan.rows.size, plan.columns.size) == (asked.height, asked.width)
        for axis in (plan.rows, plan.columns):
            assert axis.origins[0] == 0, asked
            assert axis.origins[-1] + axis.tile == axis.canvas >= axis.size, asked
            for before, after in pairwise(axis.origins):
                assert before < after <= before + axis.tile, asked


def test_the_canvas_is_no_larger_than_the_model_needs(axes: list[tuple[Asked, Axis]]) -> None:
    for asked, axis in axes:
        needed = round_up(max(axis.size, asked.info.minimum), asked.info.alignment)
        assert axis.canvas <= max(needed, axis.tile), asked


def test_tiles_start_on_the_grid(axes: list[tuple[Asked, Axis]]) -> None:
    for asked, axis in axes:
        assert all(origin % asked.info.alignment == 0 for origin in axis.origins), asked


def test_neighbours_share_at_least_the_overlap_asked_for(axes: list[tuple[Asked, Axis]]) -> None:
    for asked, axis in axes:
        if len(axis.origins) > 1:
            assert axis.overlap >= (asked.overlap or 0), asked


def test_seams_lie_apart_inside_the_overlaps(axes: list[tuple[Asked, Axis]]) -> None:
    for asked, axis in axes:
        assert len(axis.seams) == len(axis.origins) - 1
        assert all(before[1] <= after[0] for before, after in pairwise(axis.seams)), asked
        for (before, after), (start, stop) in zip(pairwise(axis.origins), axis.seams, strict=True):
            assert after <= start <= stop <= min(before + axis.tile, axis.size), asked
            assert start < stop or before + axis.tile == after, f"overlapping tiles are blended: {asked}"
            context = min(start - after, before + axis.tile - stop)
            least = (asked.overlap or 0) // 4
            least = min(least, 8) if asked.info.mixes_all else least
            assert context >= least, f"no tile is used up to its very edge: {asked}"


def test_tiles_that_differ_everywhere_are_feathered_widely() -> None:
    near = plan_tiles(160, 160, info(global_context=True), max_side=112, overlap=64)
    demands = info(global_context=True, samples=Samples(limits=None))
    everywhere = plan_tiles(160, 160, demands, max_side=112, overlap=64)
    assert [stop - start for start, stop in near.rows.seams] == [8]
    assert [stop - start for start, stop in everywhere.rows.seams] == [48]


def test_an_explicit_tile_is_an_upper_bound(axes: list[tuple[Asked, Axis]]) -> None:
    for asked, axis in axes:
        assert asked.max_side is None or axis.tile <= asked.max_side, asked


def test_tiles_stay_within_the_memory_unless_they_were_mostly_overlap(plans: list[tuple[Asked, TilePlan]]) -> None:
    limited = 0
    for asked, plan in plans:
        alignment = asked.info.alignment
        overlap = automatic_overlap(asked.info) if asked.overlap is None else asked.overlap
        enough = max(smallest_side(asked.info), 2 * round_up(overlap, alignment))
        if asked.max_pixels and asked.max_pixels >= round_up(enough, math.lcm(alignment, 8)) ** 2:
            limited += asked.whole[0] * asked.whole[1] > asked.max_pixels
            assert plan.tile_pixels <= asked.max_pixels, asked
    assert limited > 200


def test_the_whole_picture_is_one_tile_where_that_is_allowed(plans: list[tuple[Asked, TilePlan]]) -> None:
    whole = 0
    for asked, plan in plans:
        height, width = asked.whole
        fits = max(height, width) <= (asked.max_side or 10**9) and height * width <= (asked.max_pixels or 10**9)
        if fits and not asked.info.square:  # a long picture takes less work in a row of squares than in one
            whole += 1
            assert (plan.count, plan.rows.tile, plan.columns.tile) == (1, height, width), asked
    assert whole > 500


def test_a_larger_tile_size_never_costs_more_work() -> None:
    rng = random.Random(5)
    for _ in range(60):
        alignment, overlap = rng.choice([8, 16, 32]), rng.choice([0, 8, 16, 32])
        demands = info(multiple_of=alignment, alignment=alignment, square=rng.random() < 0.3)
        height, width = rng.randint(1, 500), rng.randint(1, 500)
        plans = [plan_tiles(height, width, demands, max_side=side, overlap=overlap) for side in range(64, 400, 24)]
        work = [plan.count * plan.tile_pixels for plan in plans]
        assert work == sorted(work, reverse=True), (height, width, demands, overlap)


def test_the_worked_example_720p_in_tiles_of_at_most_512() -> None:
    plan = plan_tiles(720, 1280, SMALL, max_side=512)
    assert (plan.columns.tile, plan.rows.tile, plan.count) == (440, 368, 6)
    assert 0.05 < plan.recomputed < 0.055
    # What ComfyUI's own node does: steps of 480, and cut-off tiles at the right and at the bottom.
    core = [sum(min(512, size - start) for start in range(0, size - 32, 480)) for size in (720, 1280)]
    assert round(core[0] * core[1] / (720 * 1280) - 1, 3) == 0.097
    assert plan_tiles(720, 1280, SMALL, max_side=512, overlap=32).recomputed < 0.097


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (127, 255), (1000, 31)])
def test_odd_sizes_are_one_tile_of_the_very_picture(size: tuple[int, int]) -> None:
    plan = plan_tiles(*size, SMALL)
    assert (plan.rows.tile, plan.columns.tile, plan.count, plan.recomputed) == (*size, 1, 0.0)
    assert (plan.rows.overlap, plan.columns.overlap) == (0, 0)
    windows = plan_tiles(*size, WINDOWED)
    assert (windows.rows.tile, windows.columns.tile) == tuple(round_up(side, 16) for side in size)
    assert windows.count == 1


def test_a_thin_picture_is_cut_along_its_length_only() -> None:
    plan = plan_tiles(1000, 31, SMALL, max_side=64)
    assert len(plan.rows.origins) == 21
    assert plan.rows.tile == 64
    assert plan.rows.overlap >= 16
    assert plan.columns == Axis(size=31, canvas=31, tile=31, origins=(0,), seams=())


def test_a_model_for_squares_gets_squares() -> None:
    plan = plan_tiles(600, 200, info(multiple_of=128, alignment=128, square=True), max_side=512)
    assert plan.rows.tile == plan.columns.tile
    assert plan.rows.tile % 128 == 0


@pytest.mark.parametrize(("size", "tile"), [((3, 7), 128), ((300, 260), 384)])
def test_a_model_for_squares_gets_a_nearly_square_picture_whole(size: tuple[int, int], tile: int) -> None:
    plan = plan_tiles(*size, info(multiple_of=128, alignment=128, square=True))
    assert (plan.rows.tile, plan.columns.tile, plan.count) == (tile, tile, 1)


def test_an_overlap_off_the_grid_is_enlarged() -> None:
    plan = plan_tiles(320, 128, WINDOWED, max_side=128, overlap=24)
    assert plan.rows.origins == (0, 96, 192)
    assert plan.rows.overlap == 32
    assert plan.columns.overlap == 0


def test_the_automatic_overlap_suits_the_model_and_gives_way_to_small_tiles() -> None:
    assert (automatic_overlap(SMALL), automatic_overlap(WINDOWED)) == (16, 32)
    for demands, side, shared in ((SMALL, 128, 16), (WINDOWED, 128, 32), (WINDOWED, 32, 16), (WINDOWED, 16, 0)):
        plan = plan_tiles(1000, 1000, demands, max_side=side)
        assert shared <= plan.rows.overlap <= shared + 8, (demands, side)
        assert plan.rows.tile <= side


def test_no_memory_at_all_gives_the_smallest_tile_the_model_takes() -> None:
    plan = plan_tiles(300, 300, info(minimum=60, multiple_of=8, alignment=8), max_pixels=1)
    assert (plan.rows.tile, plan.columns.tile) == (64, 64)


@pytest.mark.parametrize(
    ("demands", "limits", "told"),
    [
        (WINDOWED, {"max_side": 8}, "tile size is 8; toy needs tiles of at least 16 pixels"),
        (info(minimum=50, alignment=12), {"max_side": 59}, "tile size is 59; toy needs tiles of at least 60 pixels"),
        (SMALL, {"max_side": 32, "overlap": 32}, "overlap is 32 and tile size 32; .* an overlap below 32"),
        (SMALL, {"max_side": 32, "overlap": 100}, "overlap is 100 and tile size 32"),
        (WINDOWED, {"max_side": 40, "overlap": 17}, "overlap is 17 and tile size 40; .* an overlap below 32"),
        (info(alignment=16, square=True), {"max_side": 32, "overlap": 20}, "overlap is 20 and tile size 32"),
    ],
)
def test_impossible_tiles_are_refused_by_name(demands: ModelInfo, limits: dict[str, int], told: str) -> None:
    with pytest.raises(BadOptionError, match=told):
        plan_tiles(500, 500, demands, **limits)


@pytest.mark.parametrize(
    ("demands", "limits"),
    [
        (WINDOWED, {"max_side": 16}),
        (SMALL, {"max_side": 32, "overlap": 31}),
        (WINDOWED, {"max_side": 32, "overlap": 16}),
    ],
)
def test_the_least_that_the_errors_advise_is_accepted(demands: ModelInfo, limits: dict[str, int]) -> None:
    assert plan_tiles(100, 100, demands, **limits).count > 1


@pytest.mark.parametrize("limits", [{"max_side": 512}, {"max_pixels": 512 * 512}])
def test_a_picture_of_16000_by_12000_is_a_sane_number_of_tiles(limits: dict[str, int]) -> None:
    plan = plan_tiles(12000, 16000, SMALL, **limits)
    assert 12000 * 16000 / 512**2 < plan.count < 950
    assert plan.recomputed < 0.1


@pytest.mark.parametrize("overlap", [0, 1, 16, 33, 128])
def test_the_memory_saving_tile_is_small_but_not_wasteful(overlap: int) -> None:
    for demands in (SMALL, WINDOWED, info(minimum=200, alignment=48)):
        side = memory_saving_side(demands, overlap)
        assert side % demands.alignment == 0
        least = max(128, demands.minimum, min(8 * overlap, max(256, 4 * overlap)))
        assert least <= side < least + demands.alignment


@pytest.mark.parametrize("alignment", [1, 4, 8])
@pytest.mark.parametrize("box", [(0, 90, 0, 100), (60, 120, 70, 200), (100, 240, 250, 321), (110, 111, 160, 161)])
def test_tiles_around_a_part_cover_the_picture_and_only_one_shows_the_part(
    box: tuple[int, int, int, int], alignment: int
) -> None:
    demands = info(alignment=alignment, multiple_of=alignment, minimum=alignment)
    plan = plan_around(240, 321, demands, Around(box, 16))
    assert plan is not None
    assert not plan.alike
    for axis, (start, stop) in ((plan.rows, box[:2]), (plan.columns, box[2:])):
        ends = [axis.stop(index) for index in range(len(axis.origins))]
        assert (axis.origins[0], ends[-1]) == (0, axis.canvas)
        assert sum(origin < stop and end > start for origin, end in zip(axis.origins, ends, strict=True)) == 1
        assert all(side % alignment == 0 for side in axis.sides)
        for index, (begin, end) in enumerate(axis.seams):
            assert axis.origins[index + 1] + 4 <= begin < end <= ends[index] - 4
            assert end <= start - 4 or begin >= stop + 4
    assert plan.pixels < 1.6 * 240 * 321


@pytest.mark.parametrize("reach", [1, 2, 7, 14, 30])
def test_tiles_that_are_exact_share_what_a_model_sees_on_both_sides_of_a_seam(reach: int) -> None:
    box = 100, 120, 150, 170
    plan = plan_around(240, 321, SMALL, Around(box, exact_overlap(reach)))
    assert plan is not None
    for axis in (plan.rows, plan.columns):
        for index, (begin, end) in enumerate(axis.seams):
            assert axis.origins[index + 1] + reach <= begin
            assert end <= axis.stop(index) - reach
    assert exact_overlap(reach) <= 2 * reach + 8


def test_no_tiles_lie_around_what_is_nearly_all() -> None:
    assert plan_around(240, 321, SMALL, Around((10, 230, 12, 310), 16)) is None
