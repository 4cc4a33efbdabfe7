"""A model's layers are told without running it, and the way of the least sum is one that is faster here indeed."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
import zoo
from spandrel.architectures.Compact import Compact
from spandrel.architectures.DCTLSA import DCTLSA
from spandrel.architectures.ESRGAN import ESRGAN
from spandrel.architectures.HAT import HAT
from torch import nn

from bench.photograph import EXAMPLE
from bench.seams import random_model, read
from cudaspeed.kernels import linear, transformer_block, window_attention, winograd
from cudaspeed.kernels.layer_table import shipped_times
from cudaspeed.kernels.layer_times import LayerTimes, Timing, missing, predicted, timed_as, timings
from cudaspeed.kernels.layers import LayerKind, layers_of

WIDE, NARROW = LayerKind("conv3x3", (64, 64)), LayerKind("conv3x3", (8, 8))
WINDOWS = LayerKind("attention", (64, 64, 10, 6))
LINEAR = LayerKind("pointwise", (60, 120))
BLOCK = LayerKind("block", (60, 6, 120, 8))


# --- layers of a model -----------------------------------------------------------------------------------------------


def test_convolutions_count_once_for_every_pixel_that_they_make() -> None:
    found = layers_of(Compact(num_feat=64, num_conv=16, upscale=4), 4)
    assert found == {LayerKind("conv3x3", (3, 64)): 1, WIDE: 16, LayerKind("conv3x3", (64, 48)): 1}
    found = layers_of(ESRGAN(num_filters=64, num_blocks=1, scale=4), 4)
    assert found[WIDE] == 1 + 4 + 16 + 16, "the trunk's, those after each enlarging, and the last but one"
    assert found[LayerKind("conv3x3", (192, 64))] == 3


def test_levels_of_fewer_pixels_and_of_more_count_so() -> None:
    down, up = nn.Conv2d(8, 8, 2, stride=2), nn.ConvTranspose2d(8, 8, 2, stride=2)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), down, nn.Conv2d(8, 8, 3), up, nn.Conv2d(8, 12, 3), nn.PixelShuffle(2))
    found = layers_of(nn.Sequential(*model, nn.Conv2d(3, 3, 3)), 2)
    assert {kind.sizes: pixels for kind, pixels in found.items()} == {(3, 8): 1, (8, 8): 0.25, (8, 12): 1, (3, 3): 4}


@pytest.mark.parametrize("name", ["OmniSR", "RCAN", "SAFMN", "SeemoRe", "SwinIR"])
def test_convolutions_count_as_often_as_a_forward_computes_them(name: str) -> None:
    """Also where gates look at fewer pixels and give back as many by a function (ESA, in OmniSR)."""
    model = random_model(name, (picture := read(EXAMPLE, 128)[..., :64, :64]))
    counted: Counter[LayerKind] = Counter()

    def count(module: nn.Conv2d, _: object, output: torch.Tensor) -> None:
        if module.kernel_size == (3, 3) and module.groups == 1 and module.stride == (1, 1):
            counted[LayerKind("conv3x3", (module.in_channels, module.out_channels))] += output[0, 0].numel()

    for module in model.model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    with torch.inference_mode():
        model(picture)
    found = {kind: pixels for kind, pixels in layers_of(model.model, model.scale).items() if kind.name == "conv3x3"}
    told, truth = (
        sum(kind.multiplications * n for kind, n in kinds.items())
        for kinds in (found, {kind: n / picture[0, 0].numel() for kind, n in counted.items()})
    )
    assert told == pytest.approx(truth, rel=0.15)


def test_attention_counts_by_its_windows_where_it_has_scores() -> None:
    found = {kind: pixels for kind, pixels in layers_of(zoo.fdat().model, 2).items() if kind.name == "attention"}
    assert found == {LayerKind("attention", (64, 64, 3, 4)): 1}
    assert not [kind for kind in layers_of(DCTLSA(upscale=2), 2) if kind.name == "attention"]


def test_a_transformer_block_counts_as_a_whole() -> None:
    """But for HAT's convolutions beside it; its multiplications are those of its parts."""
    network = HAT(img_size=32, window_size=16, depths=[2], embed_dim=24, num_heads=[2], mlp_ratio=2, upscale=2)
    found = layers_of(network, 2)
    block, larger = LayerKind("block", (24, 2, 48, 16)), LayerKind("attention", (256, 576, 12, 2))
    assert found[block] == 2
    assert [kind for kind in found if kind.name == "attention"] == [larger]
    assert block.attended == (256, 12)
    assert larger.attended == (576, 12)
    assert found[LayerKind("conv3x3", (24, 8))] == 2, "of the blocks' own convolutions"
    parts = [LayerKind("pointwise", sizes) for sizes in ((24, 72), (24, 24), (24, 48), (48, 24))]
    parts.append(LayerKind("attention", (256, 256, 12, 2)))
    assert block.multiplications == sum(part.multiplications for part in parts)


def test_a_folded_convolution_counts_as_what_it_is_folded_to() -> None:
    assert {kind for kind in layers_of(zoo.span().model, 2) if kind.name == "conv3x3"} == {
        LayerKind("conv3x3", sizes) for sizes in ((3, 8), (8, 8), (8, 12))
    }


# --- sums ------------------------------------------------------------------------------------------------------------


def test_a_model_takes_the_sum_of_its_layers() -> None:
    times = LayerTimes({(WIDE, "plain"): 2.0, (NARROW, "plain"): 0.5, (WIDE, "winograd"): 1.0})
    assert predicted({WIDE: 3, NARROW: 4.0}, times, "plain") == 8.0
    assert predicted({WIDE: 3}, times, "winograd") == 3.0
    assert predicted({WIDE: 3, WINDOWS: 1}, times, "plain") is None, "nothing is known of any attention"
    assert predicted({WIDE: 3}, times, "bf16 channels last") is None
    assert predicted({}, times, "plain") is None


def test_an_unknown_layer_counts_by_the_rate_of_the_nearest() -> None:
    times = LayerTimes({(WIDE, "plain"): 2.0, (NARROW, "plain"): 0.5})
    assert times.of(LayerKind("conv3x3", (64, 32)), "plain") == 1.0
    assert times.of(LayerKind("conv3x3", (8, 16)), "plain") == 1.0


def test_what_one_code_computes_is_timed_once() -> None:
    ways = ("plain", "plain channels last", "winograd", "attention")
    assert {timed_as(WIDE, way) for way in ways} == {"plain", "plain channels last", "winograd"}
    assert {timed_as(WINDOWS, way) for way in ways} == {"plain", "attention"}
    assert {timed_as(LINEAR, way) for way in ways} == {"plain"}
    assert timed_as(LINEAR, "bf16 winograd") == timed_as(WINDOWS, "bf16 winograd") == "bf16 winograd"
    assert missing([LINEAR, WINDOWS, LINEAR], LayerTimes({(WINDOWS, "plain"): 1.0}), ways) == [
        (LINEAR, "plain"),
        (WINDOWS, "attention"),
    ]


# --- timing ----------------------------------------------------------------------------------------------------------


def test_a_clock_tells_and_the_least_of_the_calls_after_the_first_counts() -> None:
    ticks = itertools.accumulate(itertools.cycle([0.0, 9.0, 0.0, 2.0, 0.0, 1.0]))
    steps = list(timings([(NARROW, "plain")], clock=lambda: next(ticks)))
    assert [math.isinf(step.seconds) for step in steps] == [True, False, False], "one step a call, the first to warm up"
    assert steps[1].seconds == 2 * steps[2].seconds
    assert LayerTimes().with_timings(steps).seconds == {(NARROW, "plain"): steps[2].seconds}


def test_a_clock_that_stands_still_or_a_broken_off_round_tells_nothing() -> None:
    assert not LayerTimes().with_timings(timings([(NARROW, "plain")], clock=lambda: 0.0)).seconds
    assert not LayerTimes().with_timings(itertools.islice(timings([(NARROW, "plain")]), 1)).seconds
    known = LayerTimes({(NARROW, "plain"): 2.0, (WIDE, "plain"): 1.0})
    assert known.with_timings([Timing(NARROW, "plain", 3.0)]).seconds == {(NARROW, "plain"): 3.0, (WIDE, "plain"): 1.0}


def test_every_kind_can_be_timed_in_every_way(tmp_path: Path) -> None:
    kernels = [kind.prepare(tmp_path) for kind in (winograd, linear, window_attention, transformer_block)]
    ours = ["winograd", "attention", "bf16 winograd"] if all(kernels) else []
    ways = ["plain", "plain channels last", "bf16 channels last", *ours]
    what = missing([NARROW, WINDOWS, LINEAR, BLOCK, LayerKind("conv3x3", (3, 60))], LayerTimes(), ways)
    times = LayerTimes().with_timings(timings(what, calls=1))
    assert times.seconds.keys() == set(what)


# --- the table that ships --------------------------------------------------------------------------------------------


def test_only_processors_that_were_measured_have_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, known in (("AVX2", True), ("AVX512", True), ("DEFAULT", False)):
        shipped_times.cache_clear()
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda name=name: name)
        assert bool(shipped_times().seconds) is known
    shipped_times.cache_clear()


@pytest.mark.parametrize("build", [zoo.compact, zoo.esrgan, zoo.span, zoo.swinir, zoo.fdat, zoo.realcugan])
def test_the_table_answers_for_models_that_it_has_never_seen(build, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says what was measured on whole models there: our kernels are faster."""
    shipped_times.cache_clear()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    model = build()
    layers = layers_of(model.model, model.scale)
    plain, ours = (predicted(layers, shipped_times(), way) for way in ("plain", "winograd"))
    shipped_times.cache_clear()
    assert plain is not None
    assert ours is not None
    assert ours < 0.8 * plain


@pytest.mark.parametrize(("name", "bf16"), [("AVX2", False), ("AVX512", True)])
def test_each_entry_of_the_table_has_the_ways_that_differ(
    name: str, bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped_times.cache_clear()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: name)
    known = shipped_times().seconds
    shipped_times.cache_clear()
    ways = ["plain", "plain channels last", "winograd", "attention"]
    ways += ["bf16 channels last", "bf16 winograd"] if bf16 else []
    kinds = {kind for kind, _ in known}
    assert len(kinds) > 90
    assert known.keys() == {(kind, timed_as(kind, way)) for kind in kinds for way in ways}
    assert all(0 < seconds < 1000 for seconds in known.values())
