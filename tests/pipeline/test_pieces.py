"""Memory that runs out in mid-run: what is finished stays, and what was found out is kept to."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
import torch
import zoo
from clocks import new_sessions
from torch import Tensor

from cudaspeed.api.errors import OutOfMemoryError
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.models.info import model_info
from cudaspeed.pipeline.pieces import in_pieces, smaller_forwards
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.upscale_engine import upscale

TILES = UpscaleOptions("fp32", tile=64, compile=False)


class Device(StandaloneContext):
    """A CPU that has `lacks` errors left from its forward number `at` on, and one for every forward of more than `most`
    pixels from there. `forwards` are those that went well, [tiles, height, width] of the input."""

    def __init__(self, at: int = 0, lacks: int = 0, most: float = float("inf")) -> None:
        super().__init__("cpu")
        self.at, self.lacks, self.most, self.asked = at, lacks, most, 0
        self.forwards: list[tuple[int, int, int]] = []
        self.wanted: list[int] = []

    def compute(self, y: Tensor) -> Tensor:
        count, height, width = len(y), y.shape[2] // 2, y.shape[3] // 2
        self.asked += 1
        if self.asked > self.at and (self.lacks > 0 or count * height * width > self.most):
            self.lacks -= 1
            raise torch.OutOfMemoryError("out of memory, as a device would say")
        self.forwards.append((count, height, width))
        return y

    def make_resident(self, model, bytes_wanted: int) -> None:
        self.wanted.append(bytes_wanted)
        super().make_resident(model, bytes_wanted)


def pixels(forwards: list[tuple[int, int, int]]) -> int:
    return sum(count * height * width for count, height, width in forwards)


def run(device: Device, image: Tensor, options: UpscaleOptions = TILES, sessions: SessionCache | None = None):
    return upscale(image, toy_on(device), options, device, sessions or new_sessions())


def toy_on(device: Device):
    return zoo.toy(2, lambda y: device.compute(y))  # a method would be copied with the model, and its device too


def enlarged(image: Tensor) -> Tensor:
    return image.repeat_interleave(2, 1).repeat_interleave(2, 2)


def undisturbed(image: Tensor, options: UpscaleOptions) -> list[tuple[int, int, int]]:
    """The forwards of a run that memory suffices for, when all is known of the model."""
    run(Device(), image, options)
    run(device := Device(), image, options)
    return device.forwards


def place(where: str, forwards: list[tuple[int, int, int]]) -> int:
    return {"first": 0, "middle": len(forwards) // 2, "last": len(forwards) - 1}[where]


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_a_lack_that_passes_costs_no_tile_and_no_size(where: str, batch_size: int) -> None:
    image, options = (
        zoo.photograph(180, 240, frames=2),
        UpscaleOptions("fp32", tile=64, compile=False, batch_size=batch_size),
    )
    before = undisturbed(image, options)
    result = run(device := Device(place(where, before), lacks=1), image, options)
    assert torch.equal(result.image, enlarged(image))
    assert device.forwards == before, "nothing but what failed was computed twice, and nothing smaller"
    assert not result.report.warnings
    assert result.report.out_of_memory == 1


@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_a_lack_that_stays_costs_no_finished_tile(where: str) -> None:
    image, options, most = zoo.photograph(360, 480), UpscaleOptions("fp32", tile=128, compile=False), 80 * 80
    before = undisturbed(image, options)
    at = place(where, before)
    result = run(device := Device(at, most=most), image, options)
    assert torch.equal(result.image, enlarged(image))
    assert device.forwards[:at] == before[:at]
    assert all(count * height * width <= most for count, height, width in device.forwards[at:])
    assert pixels(device.forwards[at:]) <= 2 * pixels(before[at:]), "overlaps"
    assert sum("memory ran out" in warning for warning in result.report.warnings) == 1
    assert result.report.out_of_memory == device.asked - len(device.forwards) >= 2
    assert result.report.tile[0] * result.report.tile[1] <= most


def test_fewer_at_once_come_before_smaller_tiles() -> None:
    film = zoo.photograph(32, 32, frames=8)
    options = UpscaleOptions("fp32", compile=False, batch_size=8)
    result = run(device := Device(most=3 * 32 * 32), film, options)
    assert torch.equal(result.image, enlarged(film))
    assert {(height, width) for _, height, width in device.forwards} == {(32, 32)}
    assert max(count for count, _, _ in device.forwards) == 2


def test_the_host_is_asked_for_room_before_anything_gets_smaller() -> None:
    image = zoo.photograph(64, 64)
    run(device := Device(lacks=1), image)
    assert device.wanted[-1] > 0
    assert device.forwards == [(1, 64, 64)]


def test_a_limit_is_remembered_for_the_device_and_whatever_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bytes: here bf16 is computed by way of fp32, and takes as many."""
    monkeypatch.setattr("cudaspeed.pipeline.fallback.fast_precisions", lambda device: ())
    sessions, image = new_sessions(), zoo.photograph(128, 128)
    whole = UpscaleOptions("fp32", compile=False)
    run(device := Device(most=64 * 64), image, whole, sessions)
    lacks = device.asked - len(device.forwards)
    assert lacks >= 2
    model = toy_on(device)
    for options in (whole, UpscaleOptions("bf16", compile=False)):
        asked, went = device.asked, len(device.forwards)
        result = upscale(image, model, options, device, sessions)
        assert device.asked - asked == len(device.forwards) - went, "nothing ran out again"
        assert result.report.profile.endswith("tiles as memory allowed")
        assert not result.report.warnings
    device.free_bytes = lambda: 1 << 60  # type: ignore[method-assign]  # another program ended
    device.most = float("inf")
    assert upscale(image, model, whole, device, sessions).report.tiles == 1


def test_reproducible_tiles_are_not_made_by_what_another_run_found() -> None:
    sessions, image = new_sessions(), zoo.photograph(128, 128)
    run(Device(most=64 * 64), image, sessions=sessions, options=UpscaleOptions("fp32", compile=False))
    report = run(Device(), image, UpscaleOptions(reproducible=True), sessions).report
    assert report.tiles == 1


def test_under_the_least_tile_the_error_tells_what_is_needed_what_is_free_and_what_helps() -> None:
    with pytest.raises(OutOfMemoryError) as told:
        run(Device(most=0), zoo.photograph(64, 64))
    assert re.search(r"about \d+ MiB are needed and \d+ are free", str(told.value))
    assert all(widget in str(told.value) for widget in ("precision", "overlap", "batch_size"))


def test_an_interrupt_between_pieces_ends_the_run() -> None:
    class Interrupted(BaseException):
        pass

    class Stopped(Device):
        def raise_if_interrupted(self) -> None:
            if len(self.forwards) > 3:
                raise Interrupted

    device = Stopped(most=16 * 16)
    image = zoo.photograph(600, 200)
    with pytest.raises(Interrupted):
        for _ in range(3):
            run(device, image, UpscaleOptions("fp32", compile=False))


@pytest.mark.parametrize(("height", "width"), [(37, 53), (64, 64), (8, 200), (200, 8), (1, 1)])
def test_pieces_of_a_real_model_make_the_same_picture(height: int, width: int) -> None:
    model = zoo.compact(convs=2)
    info = model_info(model)
    tiles = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = model.model(tiles)
        for most in smaller_forwards(2, height, width, info):
            made = in_pieces(model.model, tiles, info, most)
            assert made.shape == whole.shape
            if most >= 24 * 24:  # smaller ones see too little of their surroundings
                torch.testing.assert_close(made, whole, atol=1e-5, rtol=0)


def test_sizes_to_try_end_at_the_least_that_the_model_takes() -> None:
    info = model_info(zoo.swinir())
    sizes = [*smaller_forwards(5, 64, 96, info)]
    assert sizes[:3] == [5 * 64 * 96, 2 * 64 * 96, 64 * 96]
    assert all(b < a for a, b in pairwise(sizes))
    assert sizes[-1] <= (2 * info.alignment) ** 2
