"""What stands still is computed once, and nothing else changes: not a bit of any frame."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
import zoo
from clocks import new_sessions
from lagging import LaggingDevice
from spandrel import ImageModelDescriptor
from torch import Tensor

from cudaspeed.api.errors import BadOptionError
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.api.report import UpscaleReport
from cudaspeed.api.resize import Resize
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.pipeline import schedule_maker, session
from cudaspeed.pipeline import still as still_tiles
from cudaspeed.pipeline.frame_io import TensorSink, TensorSource
from cudaspeed.pipeline.frames import FrameGroup
from cudaspeed.pipeline.run import Pipeline
from cudaspeed.pipeline.schedule_maker import ScheduleMaker
from cudaspeed.pipeline.scheduler import Limits, Schedule
from cudaspeed.pipeline.still import StillTiles
from cudaspeed.pipeline.streams import PastEvent
from cudaspeed.pipeline.workload import Workload
from cudaspeed.tiling.plan import plan_tiles
from cudaspeed.upscale_engine import upscale, upscale_frames

PLAIN: dict[str, Any] = {"precision": "fp32", "compile": False}
SIZE = 96, 128


def at_once(*_: object) -> nullcontext[None]:
    return nullcontext()


class Runs:
    """Runs of one model, whose forwards are counted once what it is like is known."""

    def __init__(self, model: ImageModelDescriptor | None = None) -> None:
        self.model = model or zoo.toy(2)
        self.forwards: list[int] = []
        self.change: Callable[[Tensor], None] = lambda x: None
        original = self.model.model.forward

        def forward(x: Tensor, *more: Any) -> Tensor:
            self.forwards.append(len(x))
            self.change(x)
            return original(x, *more)

        self.model.model.forward = forward
        self.sessions, self.context = new_sessions(), StandaloneContext("cpu")

    def __call__(self, image: Tensor, **options: Any):
        self.forwards.clear()
        return upscale(image, self.model, UpscaleOptions(**PLAIN, **options), self.context, self.sessions)

    def alone(self, image: Tensor, **options: Any) -> Tensor:
        """Every frame by itself."""
        return torch.cat([self(image[k : k + 1], **options).image for k in range(len(image))])


def warm(**more: Any) -> Runs:
    runs = Runs(**more)
    runs(zoo.photograph(*SIZE), tile=48)
    return runs


def pictures(count: int, channels: int = 3) -> Tensor:
    return zoo.photograph(*SIZE, channels, frames=count)


def film(of: str) -> Tensor:
    return pictures(max(map(int, of)) + 1)[[*map(int, of)]]


def talking_head(count: int, channels: int = 3) -> Tensor:
    """A picture of which a corner moves: the first tile, of 48."""
    image = pictures(1, channels).repeat(count, 1, 1, 1)
    image[:, :20, :20] = zoo.photograph(20, 20, channels, frames=count)
    return image


# frames


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("of", ["000111222", "0001222333", "0123", "00000000", "011111", "0101"])
def test_a_frame_that_is_the_one_before_is_not_computed(of: str, batch_size: int) -> None:
    runs, image = warm(), film(of)
    result = runs(image, batch_size=batch_size)
    different = 1 + sum(a != b for a, b in pairwise(of))
    assert sum(runs.forwards) == different
    assert torch.equal(result.image, runs.alone(image))
    report = result.report
    assert (report.still_frames, report.still_tiles, report.tiles) == (len(of) - different,) * 2 + (len(of),)


def test_it_is_the_one_before_that_counts() -> None:
    runs = warm()
    assert runs(film("0101")).report.still_frames == 0


def test_one_frame_is_computed_as_ever() -> None:
    runs = warm()
    report = runs(torch.zeros(1, *SIZE, 3), tile=48).report
    assert (sum(runs.forwards), report.still_tiles, report.still_frames) == (report.tiles, 0, 0)


def test_results_in_another_size_and_several_passes() -> None:
    image = film("0001122")
    for resize in (Resize(width=100, height=80), Resize(scale_by=3.0), Resize(scale_by=4.0)):
        runs = warm()
        result = runs(image, resize=resize)
        passes = result.report.passes
        assert sum(runs.forwards) == 3 * passes
        assert result.report.still_frames == 4
        assert torch.equal(result.image, runs.alone(image, resize=resize))


# tiles


MODELS = {"Compact": zoo.compact, "ESRGAN": zoo.esrgan, "SwinIR": zoo.swinir, "SPAN": zoo.span}


@pytest.mark.parametrize("tile", [32, 48])  # in batches, of several sizes
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_bit_for_bit_what_every_frame_is_alone(make: Callable[[], ImageModelDescriptor], tile: int) -> None:
    image = talking_head(4)
    image[2, 60:, 90:] = 0.3
    image[:, 40:50] = 0
    runs = Runs(make())
    result = runs(image, tile=tile)
    assert torch.equal(result.image, runs.alone(image, tile=tile))


def test_only_tiles_that_move_are_computed() -> None:
    runs = warm()
    result = runs(talking_head(5), tile=48, level="memory")  # one tile at a time
    tiles = result.report.tiles // 5
    assert tiles > 4
    assert sum(runs.forwards) == tiles + 4
    assert result.report.still_tiles == 4 * (tiles - 1)
    assert result.report.still_frames == 0


def test_tiles_that_move_share_batches() -> None:
    runs = warm()
    result = runs(talking_head(5), tile=32)
    tiles, batch = result.report.tiles // 5, result.report.batch
    assert batch > 1
    assert len(runs.forwards) <= -(-tiles // batch) + 4 * 2
    assert {*runs.forwards} <= {batch, tiles % batch}


@pytest.mark.parametrize("batch_size", [2, 3])
def test_frames_in_flight_together(batch_size: int) -> None:
    image = talking_head(7)
    runs = warm()
    result = runs(image, tile=48, level="memory", batch_size=batch_size)
    assert torch.equal(result.image, runs.alone(image, tile=48))
    assert result.report.still_tiles == 6 * (result.report.tiles // 7 - 1)


def test_bars_are_computed_once_for_a_value() -> None:
    image = pictures(4)
    image[:, 40:] = 0
    image[2:, 40:] = 0.25
    runs = warm()
    result = runs(image, tile=32, level="memory")
    assert torch.equal(result.image, runs.alone(image, tile=32, level="memory"))
    rows = result.report.tiles // 4 // 7  # seven tiles in each
    assert result.report.still_tiles == 4 * 7 * (rows - 3) - 2  # three rows show something else


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("alpha_mode", ["model", "lanczos"])
def test_any_channels(channels: int, alpha_mode: str) -> None:
    image = talking_head(4, channels)
    image[3] = image[2]
    if channels in (2, 4):
        image[..., -1] = (image[..., -1] > 0.5).float()
    for model in (zoo.toy(2), zoo.grey_denoiser()):
        runs = Runs(model)
        result = runs(image, tile=48, alpha_mode=alpha_mode)
        assert result.report.still_tiles > 0
        assert torch.equal(result.image, runs.alone(image, tile=48, alpha_mode=alpha_mode))


def test_a_picture_under_what_hides_it_may_move() -> None:
    image = torch.rand(3, *SIZE, 4, generator=torch.Generator().manual_seed(0))
    image[:] = image[:1].clone()
    image[..., :48, :48, 3] = 0
    image[1, :20, :20, :3] = 0.9
    runs = Runs()
    result = runs(image, tile=48)
    assert torch.equal(result.image, runs.alone(image, tile=48))
    assert result.report.still_tiles == 2 * result.report.tiles // 3


@pytest.mark.parametrize("mode", ["wrap", "wrap_x"])
def test_what_moves_at_one_edge_moves_at_the_other_of_a_texture(mode: str) -> None:
    image = talking_head(4)
    runs = Runs(zoo.compact())
    result = runs(image, tile=48, tiling_mode=mode)
    assert result.report.still_tiles > 0
    assert torch.equal(result.image, runs.alone(image, tile=48, tiling_mode=mode))


def test_on_a_device_that_works_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "stream_device", lambda device: LaggingDevice())
    monkeypatch.setitem(schedule_maker._AHEAD, "cpu", 1)
    for image in (talking_head(5), film("0001122"), film("0111010")):
        for batch_size in (1, 3):
            runs = warm(model=zoo.toy(2))
            result = runs(image, tile=48, level="memory", batch_size=batch_size)
            assert result.report.still_tiles > 0
            assert torch.equal(result.image, runs.alone(image, tile=48, level="memory"))


# what goes wrong


def test_a_tile_that_comes_out_faulty_is_never_handed_on() -> None:
    image = talking_head(4)
    image[:, 60, 100] = 1.0
    runs = warm(model=zoo.toy(2, lambda x: torch.where(x > 0.995, torch.nan, x)))
    image[image > 0.99] = 0.9
    healthy = runs(image, tile=48, level="memory").report.still_tiles
    image[:, 60, 100] = 1.0
    result = runs(image, tile=48, level="memory")
    assert result.report.health.non_finite == 4 * 4 * 3  # filled in every frame
    assert 0 < result.report.still_tiles < healthy
    assert torch.equal(result.image, runs.alone(image, tile=48, level="memory"))


@pytest.mark.parametrize("at", [1, 12, 13, 14])
def test_memory_that_runs_out_takes_what_is_kept_first(at: int) -> None:
    image = talking_head(5)
    image[4] = image[3]
    runs = warm(model=zoo.compact())
    whole = runs.alone(image, tile=48, level="memory")

    def once(x: Tensor) -> None:
        if len(runs.forwards) == at:
            raise torch.OutOfMemoryError("no memory")

    runs.change = once
    result = runs(image, tile=48, level="memory")
    runs.change = lambda x: None
    assert result.report.out_of_memory == 1
    assert result.report.still_frames == 1
    assert torch.allclose(result.image, whole, atol=1e-5)


def test_where_there_is_no_room_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule_maker, "_SHARE_FOR_STILL", 1e-9)
    runs, image = warm(), talking_head(3)
    report = runs(image, tile=48, level="memory").report
    assert (report.still_tiles, sum(runs.forwards)) == (0, report.tiles)
    assert runs(film("0011"), tile=48).report.still_frames == 2  # which takes no room


def test_what_is_kept_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = warm()
    two, one = (runs(pictures(count)).report.memory.frames for count in (2, 1))
    height, width = SIZE
    assert two - one >= height * width * 3 * 4 * (1 + 4)


def test_another_mode_takes_nothing_over_from_the_one_before() -> None:
    still = StillTiles()
    still.begin(on=True)
    tile, place, seat = torch.rand(3, 8, 8), (0, 0, 0), (1, 0)
    still.look_at(0, {place: tile})
    still.computed_in("fp16", tile.shape)
    still.keep(0, place, seat, (tile, PastEvent()))
    still.look_at(1, {place: tile.clone()})
    assert still.is_known(1, place, seat)
    still.computed_in("fp32", tile.shape)
    assert still.result(1, place, at_once) is None
    still.look_at(2, {place: tile.clone()})
    assert not still.is_known(2, place, seat)


# what is kept


def seen(still: StillTiles, frame: int, tile: Tensor) -> None:
    still.look_at(frame, {PLACE: tile})


PLACE, SEAT = (0, 0, 0), (1, 0)


def test_of_a_batch_only_the_tile_is_kept_and_copied_when_it_is_there() -> None:
    """The copy is queued where the result leaves: behind the batch, which a device may still be computing then."""
    still, tile, batch = StillTiles(), torch.rand(3, 8, 8), torch.zeros(2, 3, 16, 16)
    still.begin(on=True)
    seen(still, 0, tile)
    still.keep(0, PLACE, SEAT, (batch[1], PastEvent()))
    seen(still, 1, tile.clone())

    @contextmanager
    def leaving(_: object, used: Tensor) -> Iterator[None]:
        assert used.data_ptr() == batch[1].data_ptr()
        batch[1] = 1.0
        yield

    handed_on = still.result(1, PLACE, leaving)
    assert handed_on
    assert bool((handed_on[0] == 1).all())
    assert handed_on[0].untyped_storage().nbytes() == batch[1].nbytes


def test_what_was_taken_back_is_computed_in_its_seat(monkeypatch: pytest.MonkeyPatch) -> None:
    image = talking_head(3)
    runs = warm(model=zoo.compact())
    whole, original, taken_back = runs.alone(image, tile=32), StillTiles.result, []

    def result(*asked: Any) -> Any:
        known = original(*asked)
        taken_back.append(len(taken_back) % 5 == 0)
        return None if taken_back[-1] else known

    monkeypatch.setattr(StillTiles, "result", result)
    made = runs(image, tile=32)
    tiles, batch = made.report.tiles // 3, made.report.batch
    assert any(taken_back)
    assert {*runs.forwards} <= {batch, tiles % batch}
    assert torch.equal(made.image, whole)


def test_frames_of_one_value_each_are_not_all_kept() -> None:
    """A fade in one piece: eight of its results would be eight frames that nobody counts."""
    still, made = StillTiles(), list[Any]()
    still.begin(on=True)
    for frame in range(8):
        seen(still, frame, torch.full((3, 8, 8), frame / 8))
        if not still.is_known(frame, PLACE, SEAT):
            still.expect(frame, PLACE, SEAT)
            result = torch.rand(3, 16, 16)
            made.append(weakref.ref(result))
            still.keep(frame, PLACE, SEAT, (result, PastEvent()))
            del result
    assert [ref() is not None for ref in made] == [False] * 7 + [True]


def test_a_tile_of_one_value_does_not_keep_its_batch() -> None:
    still, tiles = StillTiles(), {(0, 0, column): torch.full((3, 8, 8), 0.5) for column in range(8)}
    still.begin(on=True)
    still.look_at(0, tiles)
    batch = torch.rand(4, 3, 16, 16)
    for column, tile in enumerate(batch):
        still.expect(0, (0, 0, column), (4, column))
        still.keep(0, (0, 0, column), (4, column), (tile, PastEvent()))
    for column in range(4):
        still.bar(0, (0, 0, column))  # of the places nothing is kept
    still.look_at(1, {place: tile.clone() for place, tile in tiles.items()})
    kept = {result.tile.untyped_storage().nbytes() for result in still._results.values()}
    assert kept <= {batch[0].nbytes}


def test_every_shape_of_batches_has_a_way_of_its_own() -> None:
    """What is compiled does not take all tiles of a plan, and what stands still does so in any case."""
    still, tile = StillTiles(), torch.rand(3, 8, 8)
    still.begin(on=True)
    for frame in range(3):
        seen(still, frame, tile.clone())
        assert still.is_known(frame, PLACE, SEAT) == (frame > 0)
        still.computed_in("compiled", (1, 3, 8, 8))
        still.computed_in("eager", (1, 3, 16, 8))
        if frame == 0:
            still.keep(0, PLACE, SEAT, (tile, PastEvent()))
        else:
            assert still.result(frame, PLACE, at_once)


def test_memory_that_runs_out_anywhere_takes_what_is_kept_before_more_is_planned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs, image = warm(), talking_head(3)
    cut, planned = FrameGroup.cut, list[int]()
    stills: list[StillTiles] = []
    begin, less_than = StillTiles.begin, Pipeline._less_than

    def once(self: FrameGroup, part: Any) -> Tensor:
        if self.frame_of(next(iter(part.jobs))) == 1 and not planned:
            raise torch.OutOfMemoryError("no memory")
        return cut(self, part)

    def looked_at(self: StillTiles, on: bool) -> None:
        stills.append(self)
        begin(self, on)

    def less(*asked: Any) -> Any:
        planned.append(len(stills[-1]._results) + len(stills[-1]._seen))
        return less_than(*asked)

    monkeypatch.setattr(FrameGroup, "cut", once)
    monkeypatch.setattr(StillTiles, "begin", looked_at)
    monkeypatch.setattr(Pipeline, "_less_than", less)
    assert runs(image, tile=48, level="memory").report.out_of_memory == 1
    assert planned == [0]


def test_the_share_is_of_what_there_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where tiles become fewer in the middle of a run, as when something was compiled for larger ones."""
    runs, image, planned = warm(), talking_head(8), list[int]()
    schedule = ScheduleMaker.schedule

    def small_ones_first(self: ScheduleMaker, workload: Workload, limits: Limits) -> Schedule:
        planned.append(workload.frames)
        usual = schedule(self, workload, limits)
        small = plan_tiles(*SIZE, self._known.info, max_side=48)
        return usual if workload.frames < 8 else replace(usual, plan=small, batch=1)

    monkeypatch.setattr(ScheduleMaker, "schedule", small_ones_first)
    monkeypatch.setattr(ScheduleMaker, "has_better", lambda *_: len(planned) == 1 and len(runs.forwards) > 14)
    report = runs(image).report
    assert len(planned) == 2
    assert 0 < report.still_share < 1


def test_where_looking_makes_the_host_wait_it_looks_seldom_while_all_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(still_tiles, "_makes_wait", lambda tile: True)
    still, looked = StillTiles(), list[int]()
    differences = StillTiles._differences
    monkeypatch.setattr(StillTiles, "_differences", lambda *asked: looked.append(1) or differences(*asked))
    still.begin(on=True)
    for frame in range(40):
        seen(still, frame, torch.rand(3, 8, 8))
        assert not still.is_known(frame, PLACE, SEAT)
    assert 8 <= len(looked) <= 14
    tile, known = torch.rand(3, 8, 8), list[bool]()
    for frame in range(40, 60):
        seen(still, frame, tile)
        known.append(still.is_known(frame, PLACE, SEAT))
    first = known.index(True)
    assert first <= 9
    assert all(known[first:])


def test_frames_elsewhere_are_all_compared_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host would wait for a device with every single one."""
    source, asked = TensorSource(film("0001223")), list[int]()
    source.device = torch.device("cuda")
    original = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda tensor: asked.append(len(tensor)) or original(tensor))
    monkeypatch.setattr(torch, "equal", None)
    assert [source.repeats(k) for k in range(7)] == [False, True, True, False, False, True, False]
    assert asked == [6]


# what differs by little


class Film(TensorSource):
    """Frames that come at a rate."""

    def __init__(self, image: Tensor, rate: float) -> None:
        super().__init__(image)
        self.rate = rate


def run_film(image: Tensor, still: int, rate: float = 5.0, **options: Any) -> tuple[Tensor, UpscaleReport]:
    made = torch.empty(len(image), *(2 * side for side in image.shape[1:3]), 3)
    chosen = UpscaleOptions(**PLAIN, still=still, level="memory", **options)
    ways = Film(image, rate), TensorSink(made)
    return made, upscale_frames(ways, zoo.toy(2), chosen, StandaloneContext("cpu"), new_sessions())


def noisy(count: int, levels: int) -> Tensor:
    noise = torch.randint(0, levels + 1, (count, *SIZE, 3), generator=torch.Generator().manual_seed(1))
    return (torch.full((count, *SIZE, 3), 100.0) + noise) / 255


def test_noise_counts_as_standing_still_where_that_is_wanted() -> None:
    image = noisy(5, 2)
    assert run_film(image, 0)[1].still_tiles == 0
    made, report = run_film(image, 2, tile=48)
    assert report.still_tiles == 4 * report.tiles // 5
    assert torch.equal(made[1:], made[:1].expand_as(made[1:]))
    assert run_film(image, 1, tile=48)[1].still_tiles == 0


def test_everything_is_computed_anew_every_second() -> None:
    image = noisy(11, 1)
    made, report = run_film(image, 1, rate=5.0)
    assert report.still_tiles == 11 - 3  # frames 0, 5 and 10 are computed
    for frame in (0, 5, 10):
        assert torch.equal(made[frame], run_film(image[frame : frame + 1], 0)[0][0])


def test_what_creeps_is_compared_with_what_was_computed() -> None:
    image = torch.stack([torch.full((*SIZE, 3), (100 + k) / 255) for k in range(10)])
    made, report = run_film(image, 2, rate=100.0)
    truth = image.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert float((made - truth).abs().max()) <= 2 / 255 + 1e-6
    assert report.still_tiles == 6  # frames 0, 3, 6 and 9 are computed


def test_a_cut_computes_everything_anew() -> None:
    image = noisy(4, 1)
    image[2:] += 1 / 255  # by itself that would be near enough
    image[2:, :, :100] = 0.9
    made, _ = run_film(image, 3, rate=100.0, tile=48)
    for frame in (0, 2):
        assert torch.equal(made[frame], run_film(image[frame : frame + 1], 0, tile=48)[0][0])


@pytest.mark.parametrize("value", [-1, 256, 1.5])
def test_how_little_is_checked(value: Any) -> None:
    with pytest.raises(BadOptionError, match="still"):
        UpscaleOptions(still=value)
