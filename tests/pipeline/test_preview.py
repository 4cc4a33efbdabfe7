"""What is seen of a result while it is made: what, when, and that nobody works for it where nobody looks."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
import zoo
from clocks import new_sessions
from hearing import Clock, Host, NoTicker
from numpy.typing import NDArray
from spandrel import ImageModelDescriptor
from torch import Tensor, nn

from cudaspeed import upscale_engine
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.pipeline import preview
from cudaspeed.pipeline.monitor import Monitor
from cudaspeed.upscale_engine import upscale

OPTIONS = UpscaleOptions(precision="fp32", compile=False, tile=40, overlap=8, level="memory")


class Taking(nn.Module):
    """Gives what it gets, and takes its time."""

    def __init__(self, pass_time: Callable[[], None]) -> None:
        super().__init__()
        self.pass_time = pass_time

    def forward(self, x: Tensor) -> Tensor:
        self.pass_time()
        return x


class Page(Host):
    """Somebody who looks: `pictures` are what was shown, with the clock's time."""

    looked_at = True

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.pictures: list[tuple[float, NDArray[np.uint8]]] = []

    def show(self, picture: NDArray[np.uint8]) -> None:
        assert isinstance(picture, np.ndarray)
        self.pictures.append((self.clock.now, picture))


class Setting:
    """Runs of a model that takes so many `seconds` for a tile."""

    def __init__(self, seconds: float) -> None:
        self.clock = Clock()
        self.page, self.seconds = Page(self.clock), seconds

        def pass_time() -> None:  # a function: a copy of the model has the same
            self.clock.now += self.seconds

        self.model = zoo.toy(2, Taking(pass_time))

    def run(
        self, image: Tensor, model: ImageModelDescriptor | None = None, options: UpscaleOptions = OPTIONS
    ) -> Tensor:
        return upscale(image, model or self.model, options, self.page, new_sessions()).image


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Setting]:
    def make(seconds: float) -> Setting:
        made = Setting(seconds)
        monkeypatch.setattr(upscale_engine, "Monitor", lambda host: Monitor(host, made.clock, NoTicker()))  # type: ignore[arg-type]
        return made

    return make


def as_seen(result: Tensor) -> NDArray[np.uint8]:
    """A frame of a result [H, W, 3], as the last picture of it must be: every so manieth value of it."""
    step = -(-max(result.shape[:2]) // preview.SIDE)
    return result[::step, ::step].mul(255).round().byte().numpy()


def test_a_picture_fills_in_at_most_once_a_second_and_ends_as_the_result(setting: Callable[[float], Setting]) -> None:
    one = setting(0.4)
    result = one.run(zoo.photograph(104, 136))
    times, pictures = zip(*one.page.pictures, strict=True)
    assert len(pictures) >= 4
    assert all(b - a >= 0.999 for a, b in itertools.pairwise(times))
    empty = [int((picture == picture[-1, -1]).all(axis=-1).sum()) for picture in pictures[:-1]]
    assert empty == sorted(empty, reverse=True)
    assert empty[0] > empty[-1] > 0
    assert pictures[0].shape == (208, 272, 3)
    assert np.array_equal(pictures[-1], as_seen(result[0]))


def test_it_is_small_however_large_the_result(setting: Callable[[float], Setting]) -> None:
    one = setting(0.4)
    result = one.run(zoo.photograph(40, 600))
    last = one.page.pictures[-1][1]
    assert last.shape == (27, 400, 3)
    assert np.array_equal(last, as_seen(result[0]))


def test_of_a_quick_run_there_is_no_picture(setting: Callable[[float], Setting]) -> None:
    one = setting(0.1)
    one.run(zoo.photograph(104, 136))
    assert one.page.pictures == []


def test_of_many_frames_whole_ones_are_shown_one_a_second(setting: Callable[[float], Setting]) -> None:
    one = setting(0.05)
    image = zoo.photograph(40, 72, frames=60)
    image += torch.rand(60, 1, 1, 1) * 0.01
    results = one.run(image.clamp(0, 1))
    times = [time for time, _ in one.page.pictures]
    assert 4 <= len(times) <= 7
    assert all(b - a >= 0.999 for a, b in itertools.pairwise(times))
    seen = [as_seen(frame) for frame in results]
    assert all(any(np.array_equal(picture, frame) for frame in seen) for _, picture in one.page.pictures)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_pictures_of_other_channels_are_seen_in_colour_or_grey(
    setting: Callable[[float], Setting], channels: int
) -> None:
    one = setting(0.4)
    result = one.run(zoo.photograph(104, 136, channels=channels))
    last = one.page.pictures[-1][1]
    assert last.shape == (208, 272, 3)
    if channels == 1:
        assert np.abs(last.astype(int) - as_seen(result[0]).astype(int)).max() <= 1


def test_a_tile_that_is_no_number_does_not_end_the_run(setting: Callable[[float], Setting]) -> None:
    one = setting(0.4)
    tile = torch.full((3, 8, 8), torch.nan)
    with Monitor(one.page, one.clock, NoTicker()) as monitor:  # type: ignore[arg-type]
        one.clock.now += 5
        spot = preview.Spot(0, (8, 16), (0, 8), None, 1)
        preview.Preview(monitor).tile(spot, tile, preview.Durations(10.0, 5.0))
    ((_, picture),) = one.page.pictures
    assert picture.shape == (8, 16, 3)


def test_nothing_is_made_where_nobody_looks(setting: Callable[[float], Setting], monkeypatch) -> None:
    def nobody(*_: object) -> None:
        pytest.fail("nobody looks")

    one = setting(0.4)
    one.page.looked_at = False
    monkeypatch.setattr(preview, "_reduced", nobody)
    monkeypatch.setattr(Page, "show", nobody)
    one.run(zoo.photograph(104, 136))


@pytest.mark.parametrize("part", ["_reduced", "_painted"])
def test_where_there_is_no_memory_for_pictures_the_run_goes_on_as_if_nobody_looked(
    setting: Callable[[float], Setting], monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """A lack of memory in the midst of a run makes its tiles smaller, and so its last bits others."""
    one, image = setting(0.4), zoo.photograph(104, 136)
    one.page.looked_at = False
    unseen = upscale(image, one.model, OPTIONS, one.page, new_sessions())
    one.page.looked_at = True

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 MiB")

    place = preview if part == "_reduced" else preview.Preview
    monkeypatch.setattr(place, part, full)
    seen = upscale(image, one.model, OPTIONS, one.page, new_sessions())
    assert one.page.pictures == []
    assert torch.equal(seen.image, unseen.image)
    assert (seen.report.out_of_memory, seen.report.tile) == (0, unseen.report.tile)


def test_any_other_fault_of_a_picture_is_told(
    setting: Callable[[float], Setting], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: object) -> None:
        raise ValueError("wrong")

    monkeypatch.setattr(preview, "_reduced", wrong)
    with pytest.raises(ValueError, match="wrong"):
        setting(0.4).run(zoo.photograph(104, 136))
