"""Transparency: enlarged smoothly or by the model, exact where it is constant, never a fringe around what is seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import zoo
from clocks import new_sessions
from PIL import Image
from spandrel import ImageModelDescriptor
from torch import Tensor

from cudaspeed.api.options import AlphaMode, UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.images.alpha import bleed, has_edges, hold, is_constant, lanczos
from cudaspeed.models.loader import DEFAULT_MODEL, load_model, resolve_model
from cudaspeed.upscale_engine import upscale

SIDE = 48
SESSIONS = new_sessions()  # one for all, so that each model is measured once


@pytest.fixture(scope="module")
def bundled() -> ImageModelDescriptor:
    return load_model(Path(resolve_model(DEFAULT_MODEL)))


def upscaled(picture: Tensor, model: ImageModelDescriptor, alpha_mode: AlphaMode = "auto", **options: object) -> Tensor:
    """One picture [H, W, C] through the engine, in fp32."""
    asked = UpscaleOptions(precision="fp32", compile=False, alpha_mode=alpha_mode, **options)  # type: ignore[arg-type]
    return upscale(picture[None], model, asked, StandaloneContext("cpu"), SESSIONS).image[0]


def disc(soft: float, side: int = SIDE) -> Tensor:
    """[side, side]: 1 within a disc, 0 without, over an edge of `soft` pixels."""
    along = torch.arange(side) + 0.5 - side / 2
    distance = (along[:, None].square() + along.square()).sqrt()
    return ((0.35 * side - distance) / soft + 0.5).clamp(0, 1)


HARD, SOFT, FEATHERED = disc(0.01), disc(1.5), disc(9.0)


def cut_out(colour: Tensor, alpha: Tensor, hidden: Tensor) -> Tensor:
    """[H, W, 4]: `colour` [H, W, 3] where `alpha` [H, W] shows it, `hidden` [3] under what is transparent."""
    return torch.cat([torch.where(alpha[..., None] > 0, colour, hidden), alpha[..., None]], dim=-1)


def over(picture: Tensor, background: float) -> Tensor:
    """The picture [H, W, 4] on a grey background, as a viewer shows it."""
    return picture[..., :3] * picture[..., 3:] + background * (1 - picture[..., 3:])


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_lanczos_is_pillows(scale: int) -> None:
    plane = zoo.photograph(31, 26, 1)[0, ..., 0]
    size, kernel = (26 * scale, 31 * scale), Image.Resampling.LANCZOS
    # as floats: in 8 bits Pillow rounds and clips between its passes as well
    exact = torch.from_numpy(np.array(Image.fromarray(plane.numpy()).resize(size, kernel)))
    assert float((lanczos(plane, scale) - exact).abs().max()) <= 1e-5
    mild = (plane * 127 + 64).byte()
    eight = torch.from_numpy(np.array(Image.fromarray(mild.numpy()).resize(size, kernel)))
    assert float((lanczos(mild, scale) - eight).abs().max()) <= 2


def test_lanczos_leaves_a_picture_of_its_own_size_alone() -> None:
    plane = zoo.photograph(9, 7, 1)[0, ..., 0]
    assert torch.equal(lanczos(plane, 1), plane)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 1), (2, 3)])
def test_the_smallest_pictures_are_enlarged_too(size: tuple[int, int]) -> None:
    plane = torch.rand(size)
    large = hold(lanczos(plane, 4), plane)
    assert large.shape == (4 * size[0], 4 * size[1])
    assert float(plane.min()) <= float(large.min()) <= float(large.max()) <= float(plane.max())
    assert is_constant(torch.full(size, 0.3))
    assert not has_edges(torch.full(size, 0.3))


LINE = torch.zeros(20, 20).index_fill_(1, torch.tensor([7]), 1.0)
WINDOW_PANE = torch.zeros(20, 20).index_fill_(0, torch.arange(8, 20), 0.5)
NOISE = 0.5 + 0.02 * torch.rand(20, 20, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("alpha", "sharp"),
    [(HARD, True), (LINE, True), (WINDOW_PANE, True), (FEATHERED, False), (NOISE, False), (torch.ones(9, 9), False)],
    ids=["cut-out", "line", "half-transparent", "feathered", "noise", "opaque"],
)
def test_edges_are_told_from_shades_whatever_their_contrast(alpha: Tensor, sharp: bool) -> None:
    assert has_edges(alpha) == sharp
    assert has_edges(alpha.T) == sharp


def test_alpha_without_detail_costs_no_work_and_edges_go_through_the_model() -> None:
    tiles = {}
    for name, alpha in (("opaque", torch.ones(SIDE, SIDE)), ("feathered", FEATHERED), ("cut-out", HARD)):
        picture = torch.cat([zoo.photograph(SIDE, SIDE)[0], alpha[..., None]], dim=-1)[None]
        for mode in ("auto", "model", "lanczos"):
            asked = UpscaleOptions(precision="fp32", compile=False, alpha_mode=mode)
            tiles[name, mode] = upscale(
                picture, zoo.toy(), asked, StandaloneContext("cpu"), new_sessions()
            ).report.tiles
    assert {key for key, count in tiles.items() if count == 2} == {
        ("cut-out", "auto"),
        ("cut-out", "model"),
        ("feathered", "model"),
    }
    assert {*tiles.values()} == {1, 2}


def test_frames_of_one_batch_are_decided_together() -> None:
    colour = zoo.photograph(SIDE, SIDE, frames=3)
    alphas = torch.stack([torch.full((SIDE, SIDE), 0.4), HARD, FEATHERED])
    batch = torch.cat([colour, alphas[..., None]], dim=-1)
    options = UpscaleOptions(precision="fp32", compile=False, batch_size=2)
    result = upscale(batch, zoo.toy(), options, StandaloneContext("cpu"), new_sessions())
    assert result.report.tiles == 6
    assert (result.image[0, ..., 3] == torch.tensor(0.4)).all()
    wanted = alphas.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.allclose(result.image[..., 3], wanted, atol=1e-6), "the toy doubles pixels"


def test_a_hard_edge_is_sharper_through_the_model(bundled: ImageModelDescriptor) -> None:
    large = disc(0.02, 16 * SIDE)  # the truth, in samples of which a pixel of the result has 8x8
    truth, small = (torch.nn.functional.avg_pool2d(large[None, None], n)[0, 0] for n in (8, 16))
    picture = torch.cat([torch.ones(SIDE, SIDE, 3), small[..., None]], dim=-1)
    error = {
        mode: float((upscaled(picture, bundled, mode)[..., 3] - truth).square().mean()) for mode in ("auto", "lanczos")
    }
    assert error["auto"] < 0.25 * error["lanczos"]


@pytest.mark.parametrize("mode", ["model", "lanczos"])
@pytest.mark.parametrize("channels", [2, 4])
def test_what_is_opaque_clear_or_constant_stays_exactly_so(
    bundled: ImageModelDescriptor, channels: int, mode: AlphaMode
) -> None:
    alpha = HARD.clone()
    alpha[20:28] *= 0.3
    picture = torch.cat([zoo.photograph(SIDE, SIDE, channels - 1)[0], alpha[..., None]], dim=-1)
    result = upscaled(picture, bundled, mode)[..., -1]
    assert 0 <= float(result.min()) <= float(result.max()) <= 1
    highest, negative = (torch.nn.functional.max_pool2d(x[None], 7, stride=1, padding=3)[0] for x in (alpha, -alpha))
    constant, wanted = (x.repeat_interleave(2, 0).repeat_interleave(2, 1) for x in (highest == -negative, alpha))
    assert int(constant.sum()) > 1000
    assert torch.equal(result[constant], wanted[constant])


@pytest.mark.parametrize("mode", ["model", "lanczos"])
def test_constant_alpha_is_constant(bundled: ImageModelDescriptor, mode: AlphaMode) -> None:
    for value in (0.0, 0.3, 1.0):
        picture = torch.cat([zoo.photograph(20, 20)[0], torch.full((20, 20, 1), value)], dim=-1)
        assert (upscaled(picture, bundled, mode)[..., 3] == torch.tensor(value)).all()


def test_colours_bleed_under_what_is_invisible_and_nothing_else_changes() -> None:
    frame = cut_out(zoo.photograph(SIDE, SIDE)[0], SOFT, torch.zeros(3))
    before = frame.clone()
    bled = bleed(frame)
    assert torch.equal(frame, before)
    visible = SOFT > 0
    assert torch.equal(bled[visible], frame[visible])
    assert torch.equal(bled[..., 3], frame[..., 3])
    assert float(bled[~visible][:, :3].min()) > 0.1, "nothing of the black is left"

    half = torch.tensor([1.0, 0, 0, 1]).repeat(SIDE, SIDE, 1)
    half[:, SIDE // 2 :] = torch.tensor([0.0, 0, 1, 1])
    half[8:40, 8:40] = 0
    bled = bleed(half)
    assert float(bled[24, 10, 0]) > 0.8 > 0.2 > float(bled[24, 10, 2]), "red from the red side"
    assert float(bled[24, 37, 2]) > 0.8 > 0.2 > float(bled[24, 37, 0]), "blue from the blue side"


def test_pictures_without_hidden_colours_or_with_nothing_else_are_left_alone() -> None:
    opaque, clear = torch.rand(5, 6, 4), torch.rand(5, 6, 4)
    opaque[..., 3], clear[..., 3] = 1.0, 0.0
    assert bleed(opaque) is opaque
    assert bleed(clear) is clear
    assert bleed(torch.tensor([[[0.5, 1.0], [0.1, 0.0]]]))[0, 1].tolist() == [0.5, 0.0]


@pytest.mark.parametrize("hidden", [torch.zeros(3), torch.tensor([0.0, 1.0, 0.0])], ids=["black", "green"])
@pytest.mark.parametrize("alpha", [HARD, SOFT, FEATHERED], ids=["hard", "soft", "feathered"])
@pytest.mark.parametrize("mode", ["auto", "lanczos"])
def test_no_fringe_of_hidden_colours(
    bundled: ImageModelDescriptor, mode: AlphaMode, alpha: Tensor, hidden: Tensor
) -> None:
    white, grey_disc = torch.ones(SIDE, SIDE, 3), torch.full((SIDE, SIDE, 3), 0.5)
    for model in (zoo.toy(), bundled):
        for colour in (white, grey_disc):
            result = upscaled(cut_out(colour, alpha, hidden), model, mode)
            opaque = torch.cat([upscaled(colour, model), result[..., 3:]], dim=-1)
            for background in (0.0, 0.5, 1.0):
                assert float((over(result, background) - over(opaque, background)).abs().max()) <= 2 / 255


def test_no_fringe_around_a_photograph(bundled: ImageModelDescriptor) -> None:
    colour = zoo.photograph(SIDE, SIDE)[0]
    for alpha in (HARD, SOFT, FEATHERED):
        shown = over(upscaled(cut_out(colour, alpha, torch.zeros(3)), bundled), 1.0)
        whole = over(upscaled(torch.cat([colour, alpha[..., None]], dim=-1), bundled), 1.0)
        # what would have been under the transparency is not known, so its texture cannot reach over the edge
        assert float((shown - whole).abs().max()) <= 16 / 255
        assert float((shown - whole).abs().mean()) <= 0.1 / 255
