"""Networks for latents: of the published sizes, read off their weights, and computing what the published code computes.

`reference/` holds what that code gave, once, on a CPU in float32, torch 2.11: github.com/styler00dollar/
ComfyUI-sudo-latent-upscale at 45ae409 for SwinFIR, DRCTFIR and CRAFT, github.com/city96/SD-Latent-Upscaler at
14c6d8e for v1 and at 89543b0 for v2, github.com/LoganBooker/SesquiLSR at fbdd11d, its upscaler.py written off by hand;
beside it, as JSON, the names and shapes of its state dict. Neither weights nor inputs are stored: `refill` and
`example` make them.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from spandrel.architectures.DAT import DAT
from spandrel.architectures.DRCT import DRCT
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from cudaspeed.latents.architectures import convolutions, craft, dat, drct, resizer, sesqui, swinfir
from cudaspeed.latents.architectures.convolutions import LatentConvolutions, Layer
from cudaspeed.latents.architectures.craft import UnpaddedCRAFT
from cudaspeed.latents.architectures.drct import LatentDRCT
from cudaspeed.latents.architectures.loading import filled
from cudaspeed.latents.architectures.masks import is_constant
from cudaspeed.latents.architectures.resizer import Resizer
from cudaspeed.latents.architectures.sesqui import GateSizes, Sesqui
from cudaspeed.latents.architectures.swinfir import SwinFIR

REFERENCE = Path(__file__).parent / "reference"
BEFORE, AFTER = GateSizes(8, 64, 12), GateSizes(8, 64, 16)


class Case(NamedTuple):
    """A small network of a family; what else it is called with, and its result's sides, by the latent's."""

    make: Callable[[], nn.Module]
    read: Callable[[Mapping[str, Tensor]], nn.Module]
    sides: tuple[int, int]
    arguments: dict[str, Any]
    result: tuple[int, int]


def read_by(family: Any, *scale: float) -> Callable[[Mapping[str, Tensor]], nn.Module]:
    """What makes a network of a state dict."""
    return lambda weights: filled(family.network_for(weights, *scale), weights)


def small_v2(scale: float) -> LatentConvolutions:
    return LatentConvolutions(scale, (Layer(4, 64, 3), *[Layer(64, 64, 3)] * 3, Layer(64, 4, 3)))


SWINFIR = swinfir.Sizes(embed=8, depths=(2, 3), heads=2, window=4, mlp=2.0, hidden=8)
SMALL_DRCT = drct.Sizes(embed=12, groups=2, heads=2, window=4, growth=4, hidden=12)
SMALL_DAT = dat.Sizes(embed=32, depths=(3, 1), heads=2, window=(2, 4))
CRAFT = craft.Sizes(embed=96, depths=(2, 1))
SESQUI = sesqui.Sizes(
    width=16,
    before=2,
    after=1,
    gates_before=BEFORE,
    gates_within=AFTER,
    gates_after=AFTER,
    lift=8,
)
RESIZER = resizer.Sizes(width=32, before=(False, True, False), after=(False, True))

CASES = {
    "swinfir": Case(lambda: SwinFIR(SWINFIR), read_by(swinfir), (8, 12), {}, (16, 24)),
    "drctfir": Case(lambda: LatentDRCT(SMALL_DRCT), read_by(drct), (8, 12), {}, (16, 24)),
    "drct": Case(lambda: LatentDRCT(SMALL_DRCT._replace(hidden=0)), read_by(drct), (8, 12), {}, (16, 24)),
    "dat": Case(lambda: dat.network_of(SMALL_DAT), read_by(dat), (8, 12), {}, (16, 24)),
    "craft": Case(lambda: UnpaddedCRAFT(CRAFT), read_by(craft), (16, 32), {}, (32, 64)),
    "convolutions_v1": Case(
        lambda: LatentConvolutions(1.25, convolutions.V1),
        read_by(convolutions, 1.25),
        (7, 9),
        {},
        (8, 11),
    ),
    "convolutions_v2": Case(
        lambda: small_v2(1.5),
        read_by(convolutions, 1.5),
        (7, 8),
        {},
        (10, 12),
    ),
    "sesqui": Case(lambda: Sesqui(SESQUI), read_by(sesqui), (6, 5), {"size": (9, 8)}, (9, 8)),
    "resizer": Case(lambda: Resizer(RESIZER), read_by(resizer), (6, 5), {"size": (9, 7)}, (9, 7)),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)

# What a published network was made with, and the sides and sizes of its results.
PUBLISHED: dict[str, tuple[Callable[[], nn.Module], list[tuple[tuple[int, int, int], dict[str, Any]]]]] = {
    "swinfir": (CASES["swinfir"].make, [((2, 8, 12), {}), ((1, 8, 8), {})]),
    "drctfir": (CASES["drctfir"].make, [((2, 8, 12), {}), ((1, 8, 8), {})]),
    "craft": (CASES["craft"].make, [((2, 16, 16), {}), ((1, 16, 32), {})]),
    "sesqui": (
        CASES["sesqui"].make,
        [((2, 6, 5), {"size": (9, 8)}), ((1, 5, 6), {"size": (10, 12)}), ((1, 7, 6), {"size": (7, 6)})],
    ),
    **{
        f"convolutions_v1_{scale}": (lambda scale=scale: LatentConvolutions(scale, convolutions.V1), [((1, 5, 7), {})])
        for scale in convolutions.SCALES
    },
    **{
        f"convolutions_v2_{scale}": (lambda scale=scale: small_v2(scale), [((1, 5, 7), {})])
        for scale in convolutions.SCALES
    },
}


def refill(network: nn.Module) -> nn.Module:
    """The rule by which references were made: from one generator, seed 1, in the order of the parameters' names; with
    two dimensions or more a normal distribution over the root of what one row holds, else 0.5 and a tenth of one."""
    generator = torch.Generator().manual_seed(1)
    for _, parameter in sorted(network.named_parameters()):
        values = torch.randn(parameter.shape, generator=generator)
        per_row = parameter.numel() / len(parameter)
        parameter.data.copy_(values / per_row**0.5 if parameter.ndim > 1 else 0.5 + 0.1 * values)
    return network.eval().requires_grad_(False)


def example(count: int, height: int, width: int, channels: int = 4) -> Tensor:
    return torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(2))


def shapes(network: nn.Module) -> dict[str, list[int]]:
    return {key: list(tensor.shape) for key, tensor in network.state_dict().items()}


@torch.inference_mode()
def computed(network: nn.Module, latents: Tensor, **arguments: Any) -> Tensor:
    return network(latents, **arguments)


@pytest.mark.parametrize(
    ("make", "millions"),
    [
        (lambda: SwinFIR(swinfir.Sizes()), 3.82),
        (lambda: dat.network_of(dat.Sizes()), 24.44),
        (lambda: LatentDRCT(drct.Sizes()), 27.44),
        (lambda: LatentDRCT(drct.Sizes(hidden=180)), 27.86),
        (lambda: UnpaddedCRAFT(craft.Sizes()), 46.14),
        (lambda: LatentConvolutions(2.0, convolutions.V1), 0.51),
        (lambda: LatentConvolutions(2.0), 0.60),
        (lambda: Sesqui(sesqui.Sizes()), 3.07),
        (lambda: Sesqui(sesqui.Sizes(channels=16)), 3.09),
        (lambda: Sesqui(sesqui.Sizes(channels=32)), 3.13),
        (lambda: Resizer(resizer.Sizes()), 6.27),
    ],
    ids=["swinfir", "dat", "drct", "drctfir", "craft", "v1", "v2", "sesqui4", "sesqui16", "sesqui32", "resizer"],
)
def test_the_published_sizes_have_as_many_parameters(make: Callable[[], nn.Module], millions: float) -> None:
    try:
        with torch.device("meta"):
            network = make()
    except RuntimeError:  # spandrel's SwinIR and DRCT read numbers off a tensor while they are made
        network = make()

    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 2) == millions


def test_keys_are_the_published_ones() -> None:
    with torch.device("meta"):
        of_craft, of_sesqui = UnpaddedCRAFT(craft.Sizes(depths=(1,))), Sesqui(sesqui.Sizes())
    of_v1, of_v2 = LatentConvolutions(2.0, convolutions.V1), LatentConvolutions(2.0)

    assert shapes(SwinFIR(swinfir.Sizes(depths=(1,))))["layers.0.conv.F.fu.conv_layer.weight"] == [96, 96, 1, 1]
    assert shapes(LatentDRCT(drct.Sizes(groups=1, hidden=180)))["conv_after_body.F.fu.conv_layer.weight"] == [
        180,
        180,
        1,
        1,
    ]
    assert shapes(of_craft)["upsample.0.weight"] == [16, 180, 3, 3]
    assert shapes(of_sesqui)["upsample.pe.freqs"] == [4]
    assert shapes(Resizer(resizer.Sizes()))["embed.0.weight"] == [32, 1]
    assert "in_blocks.1.q.weight" in shapes(Resizer(resizer.Sizes()))
    assert [key for key in shapes(of_v1) if "weight" in key] == [f"sequential.{at}.weight" for at in (0, 4, 6, 8, 10)]
    assert [key for key in shapes(of_v2) if "weight" in key] == [
        f"sequential.{at}.weight" for at in (0, *range(4, 38, 2))
    ]


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_computes_what_the_published_code_computes(name: str) -> None:
    make, inputs = PUBLISHED[name]
    network = refill(make())
    with np.load(REFERENCE / f"{name}.npz") as stored:
        keys = json.loads(stored["keys"].tobytes())
        expected = [torch.from_numpy(stored[f"output{at}"]) for at in range(len(inputs))]

    assert shapes(network) == {key: shape for key, shape in keys.items() if not is_constant(key)}
    for (sides, arguments), output in zip(inputs, expected, strict=True):
        result = computed(network, example(*sides), **arguments)
        torch.testing.assert_close(result, output, rtol=1e-5, atol=1e-5)


@each_case
def test_a_state_dict_alone_gives_the_network_back(case: Case) -> None:
    network = refill(case.make())
    weights = network.state_dict()
    read = case.read(weights)

    assert not read.training
    assert not any(parameter.requires_grad for parameter in read.parameters())
    latents = example(1, *case.sides)
    assert torch.equal(computed(read, latents, **case.arguments), computed(network, latents, **case.arguments))


@pytest.mark.parametrize(
    "sizes",
    [
        swinfir.Sizes(16, 12, (2, 1), 3, 4, 1.5, 4, 6),
        swinfir.Sizes(4, 8, (2,), 2, 8, 2.0, 3, 8),
    ],
)
def test_all_sizes_of_a_swinfir_are_read(sizes: swinfir.Sizes) -> None:
    assert swinfir.sizes_of(SwinFIR(sizes).state_dict()) == sizes._replace(depths=list(sizes.depths))


def test_all_sizes_of_the_others_are_read() -> None:
    of_drct = drct.Sizes(16, 24, 1, 3, 4, 3.0, 8, 4, 6)
    of_dat = dat.Sizes(16, 32, (2, 3), 2, (4, 2), 1.5, 3)
    of_craft = craft.Sizes(16, 64, (1, 3), 4, (2, 8), 1.5, 3)
    of_sesqui = sesqui.Sizes(16, 8, 1, 2, GateSizes(2, 6, 5), GateSizes(3, 6, 7), GateSizes(1, 4, 3), 4, 3, 4, 5, 6, 7)
    of_resizer = resizer.Sizes(16, 64, 8, (True,), (False, False, True))

    assert drct.sizes_of(LatentDRCT(of_drct).state_dict()) == of_drct
    assert dat.sizes_of(dat.network_of(of_dat).state_dict()) == of_dat._replace(depths=[2, 3])
    assert craft.sizes_of(UnpaddedCRAFT(of_craft).state_dict()) == of_craft._replace(depths=[1, 3])
    assert sesqui.sizes_of(Sesqui(of_sesqui).state_dict()) == of_sesqui
    assert resizer.sizes_of(Resizer(of_resizer).state_dict()) == of_resizer._replace(
        before=[True], after=[False, False, True]
    )


@each_case
def test_each_latent_of_a_batch_is_computed_for_itself(case: Case) -> None:
    network, latents = refill(case.make()), example(2, *case.sides)

    together = computed(network, latents, **case.arguments)

    apart = [computed(network, latent[None], **case.arguments) for latent in latents]
    torch.testing.assert_close(together, torch.cat(apart), rtol=1e-4, atol=1e-5)
    assert together.shape == (2, 4, *case.result)


@each_case
def test_bfloat16_is_close_to_float32(case: Case) -> None:
    network, latents = refill(case.make()), example(1, *case.sides)

    exact = computed(network, latents, **case.arguments)
    coarse = computed(copy.deepcopy(network).bfloat16(), latents.bfloat16(), **case.arguments)

    assert coarse.dtype == torch.bfloat16
    error = (coarse.float() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert error < 0.02


@each_case
def test_autocast_is_close_to_float32(case: Case) -> None:
    network, latents = refill(case.make()), example(1, *case.sides)

    exact = computed(network, latents, **case.arguments)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = computed(network, latents, **case.arguments)

    error = (coarse.float() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert error < 0.02


@each_case
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_it_can_be_traced_without_values(case: Case, kind: torch.dtype) -> None:
    network = copy.deepcopy(refill(case.make())).to("meta", kind)
    latents = torch.empty(3, 4, *case.sides, device="meta", dtype=kind)

    result = computed(network, latents, **case.arguments)

    assert (result.shape, result.dtype, result.is_meta) == ((3, 4, *case.result), kind, True)
    assert computed(network, latents, **case.arguments).shape == result.shape


def some_keys(weights: Mapping[str, Tensor]) -> list[str]:
    """A dozen or two, from all over a network."""
    return [*weights][:: max(1, len(weights) // 12)]


@each_case
def test_what_is_missing_in_a_state_dict_is_named(case: Case) -> None:
    whole = case.make().state_dict()
    for key in some_keys(whole):
        weights = {other: tensor for other, tensor in whole.items() if other != key}
        with pytest.raises(ValueError, match=rf"^{re.escape(key)}: expected \[.*\], found none$"):
            case.read(weights)


@each_case
def test_what_has_another_shape_is_named_with_both(case: Case) -> None:
    whole = case.make().state_dict()
    for key in some_keys(whole):
        other = whole[key].new_zeros(*whole[key].shape, 2)
        found = re.escape(str(list(other.shape)))
        with pytest.raises(ValueError, match=rf"^{re.escape(key)}: expected \[.*\], found {found}$"):
            case.read({**whole, key: other})


def spandrels_drct() -> nn.Module:
    sizes = {"embed_dim": 12, "depths": (2, 2), "num_heads": (2, 2), "window_size": 4, "gc": 4}
    return DRCT(img_size=16, in_chans=4, upsampler="pixelshuffle", upscale=2, **sizes)


def spandrels_dat() -> nn.Module:
    sizes = {"embed_dim": 32, "split_size": [2, 4], "depth": [3, 1], "num_heads": [2, 2], "expansion_factor": 2}
    return DAT(in_chans=4, img_size=16, upsampler="pixelshuffle", upscale=2, **sizes)


@pytest.mark.parametrize("sides", [(16, 16), (8, 24)], ids=["of the masks", "another"])
@pytest.mark.parametrize(
    ("make", "read"),
    [(spandrels_drct, read_by(drct)), (spandrels_dat, read_by(dat))],
    ids=["drct", "dat"],
)
def test_a_file_with_masks_or_without_computes_what_spandrel_computes(
    make: Callable[[], nn.Module], read: Callable[[Mapping[str, Tensor]], nn.Module], sides: tuple[int, int]
) -> None:
    network, latents = refill(make()), example(2, *sides)
    weights = {key: tensor for key, tensor in network.state_dict().items() if "attn_mask" not in key}
    expected = computed(network, latents)

    assert len(weights) < len(network.state_dict())
    for given in (weights, network.state_dict()):
        torch.testing.assert_close(computed(read(given), latents), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "make", [lambda: SwinFIR(SWINFIR), lambda: LatentDRCT(SMALL_DRCT), lambda: dat.network_of(SMALL_DAT)]
)
def test_a_copy_in_another_precision_has_masks_of_its_own(make: Callable[[], nn.Module]) -> None:
    network, latents = refill(make()), example(1, 8, 16)
    exact = computed(network, latents)

    coarse = computed(copy.deepcopy(network).bfloat16(), latents.bfloat16())

    assert (coarse.float() - exact).square().mean().sqrt() < 0.02 * exact.square().mean().sqrt()
    assert torch.equal(computed(network, latents), exact)


def test_masks_and_tables_are_held_once() -> None:
    network = refill(LatentDRCT(drct.Sizes(embed=24, groups=4, heads=2, window=8)))
    computed(network, example(1, 32, 32))
    held = {buffer.data_ptr(): buffer.nbytes for buffer in network.buffers() if buffer.numel()}

    assert sum(held.values()) == 64 * 64 * 8  # the row of each pixel of a window as seen from each, as int64


@each_case
def test_what_belongs_to_another_network_is_named(case: Case) -> None:
    with pytest.raises(ValueError, match=r"^else\.weight: expected none, found \[2, 3\]$"):
        case.read({**case.make().state_dict(), "else.weight": torch.zeros(2, 3)})


def test_a_great_number_in_a_key_makes_no_great_network() -> None:
    weights = {**refill(SwinFIR(SWINFIR)).state_dict(), "layers.1000000000.conv.fusion.bias": torch.zeros(8)}

    with pytest.raises(ValueError, match=r"^layers\.1000000000\.conv\.fusion\.bias: expected none, found \[8\]$"):
        read_by(swinfir)(weights)


@pytest.mark.parametrize("scale", convolutions.SCALES)
@pytest.mark.parametrize("side", range(1, 12))
def test_convolutions_enlarge_to_the_floor_of_the_scale(scale: float, side: int) -> None:
    network = LatentConvolutions(scale, (Layer(4, 4, 1), Layer(4, 4, 1)))

    assert computed(network, example(1, side, side + 3)).shape[2:] == (int(side * scale), int((side + 3) * scale))


def test_attention_over_all_pixels_makes_no_matrix_of_scores() -> None:
    # 64x64 to 128x128 would take 2.6 GB of them; this kernel of torch's makes none, and raises for what it cannot do
    with torch.inference_mode(), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        refill(Resizer(RESIZER))(example(1, 6, 5), (9, 7))


def test_what_a_resizers_blocks_add_up_to_is_not_rounded_to_bfloat16() -> None:
    network = refill(Resizer(RESIZER._replace(before=(False,) * 10, after=(False,) * 10)))
    rounded, latents = copy.deepcopy(network).bfloat16(), example(1, 12, 10)
    with torch.inference_mode():
        truth, near = network(latents, (24, 20)), rounded(latents.bfloat16(), (24, 20))
    assert (near - truth).square().mean().sqrt() < 0.02 * truth.std()  # rounded 0.036


@pytest.mark.parametrize("seed", [0, 1])
def test_a_resizers_ends_are_not_rounded_to_bfloat16(seed: int) -> None:
    torch.manual_seed(seed)
    network = Resizer(RESIZER._replace(before=(False,) * 10, after=(False,) * 10)).eval()
    rounded, latents = copy.deepcopy(network).bfloat16(), 0.65 * torch.randn(1, 4, 12, 10)
    with torch.inference_mode():
        truth, near = network(latents, (24, 20)), rounded(latents.bfloat16(), (24, 20))
    assert (near - truth).square().mean().sqrt() < 0.016 * truth.std()  # rounded 0.019
