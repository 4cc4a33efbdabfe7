"""A film that moves in one part only is computed in tiles around that part, and in one piece again where it moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import zoo
from clocks import new_sessions
from torch import Tensor

from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.pipeline import moving
from cudaspeed.upscale_engine import upscale

SIZE = 192, 256
FRAMES = 40
PIXELS = SIZE[0] * SIZE[1]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small films tell."""
    monkeypatch.setattr(moving, "_FRAMES", 3)


def film(*parts: tuple[int, int, int, int]) -> Tensor:
    """Frames of which the first so many change within the first part, and so on."""
    image = zoo.photograph(*SIZE).repeat(FRAMES, 1, 1, 1)
    each = FRAMES // len(parts)
    for k, (top, bottom, left, right) in enumerate(parts):
        shape = each, bottom - top, right - left, 3
        image[k * each : (k + 1) * each, top:bottom, left:right] = torch.rand(
            shape, generator=torch.Generator().manual_seed(k)
        )
    return image


class Run:
    """One, with a model that is known. `forwards` are the pixels of each; `before` hears of them, `change` is what the
    model does first."""

    def __init__(
        self,
        image: Tensor,
        before: Callable[[int], None] = lambda count: None,
        change: Callable[[Tensor], Tensor] = lambda x: x,
        **options: Any,
    ) -> None:
        model, sessions, context = zoo.compact(), new_sessions(), StandaloneContext("cpu")
        chosen = UpscaleOptions(precision="fp32", compile=False, **options)
        original, self.forwards = model.model.forward, list[int]()
        known = False

        def forward(x: Tensor) -> Tensor:
            if known:
                self.forwards.append(x[:, 0].numel())
                before(len(self.forwards))
            return original(change(x))

        model.model.forward = forward
        upscale(image[:1], model, chosen, context, sessions)
        known = True
        result = upscale(image, model, chosen, context, sessions)
        self.image, self.report = result.image, result.report


@pytest.mark.parametrize("part", [(0, 96, 0, 128), (48, 144, 64, 192), (96, 192, 128, 256), (90, 106, 10, 26)])
def test_what_stands_still_around_it_is_computed_once(part: tuple[int, int, int, int]) -> None:
    image = film(part)
    result = Run(image)
    assert sum(result.forwards) < 0.5 * FRAMES * PIXELS
    assert 0 < result.report.still_tiles < result.report.tiles
    every = Run(image, tile=256)  # where the tiles lie was said
    assert every.report.tiles == FRAMES
    assert float((result.image - every.image).abs().max()) < 1e-6


def test_where_everything_moves_nothing_changes() -> None:
    result = Run(film((0, 192, 0, 256)))
    assert result.forwards == [PIXELS] * FRAMES
    assert (result.report.tiles, result.report.still_tiles) == (FRAMES, 0)


def test_it_follows_and_gives_up() -> None:
    parts = (0, 64, 0, 64), (120, 184, 150, 250), (0, 192, 0, 256), (0, 64, 0, 64)
    image = film(*parts)
    result = Run(image)
    alone = torch.cat([Run(frame[None]).image for frame in image[::13]])
    assert float((result.image[::13] - alone).abs().max()) < 1e-4
    assert sum(result.forwards) < 0.8 * FRAMES * PIXELS
    assert result.forwards.count(PIXELS) >= 4 + 5  # while all of it moves, it is in one piece, too


def test_the_same_frames_give_the_same_bits() -> None:
    image = film((0, 64, 0, 64), (0, 192, 0, 256))
    assert torch.equal(Run(image).image, Run(image).image)


@pytest.mark.parametrize("options", [{"tile": 256}, {"reproducible": True}, {"tiling_mode": "wrap"}])
def test_not_where_the_user_decides(options: dict[str, Any]) -> None:
    assert Run(film((0, 64, 0, 64))[:20], **options).report.tiles == 20


def test_a_short_film_is_left_in_one_piece() -> None:
    assert Run(film((0, 64, 0, 64))[:12]).report.tiles == 12


def test_memory_that_runs_out_ends_it() -> None:
    image = film((0, 64, 0, 64))

    def once(count: int) -> None:
        if count == 30:
            raise torch.OutOfMemoryError("no memory")

    result = Run(image, once)
    assert result.report.out_of_memory == 1
    assert float((result.image - Run(image, tile=256).image).abs().max()) < 1e-4


def test_not_where_a_model_sees_more_than_its_layers_tell() -> None:
    """Tiles would not be what the picture is."""
    image = film((0, 64, 0, 64))
    result = Run(image, change=lambda x: x - 0.1 * x.mean(dim=(2, 3), keepdim=True))
    assert (result.report.tiles, result.report.still_tiles) == (FRAMES, 0)
