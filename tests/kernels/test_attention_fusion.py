"""Attention in one operation: found in every architecture that has it, the same picture, no scores held; and whatever
only looked like attention is computed as it was asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import zoo
from clocks import new_sessions
from spandrel import ImageModelDescriptor
from spandrel.architectures.DAT import DAT, DATArch
from spandrel.architectures.DRCT import DRCT, DRCTArch
from spandrel.architectures.HAT import HAT, HATArch
from spandrel.architectures.RGT import RGT, RGTArch
from spandrel.architectures.Swin2SR import Swin2SR, Swin2SRArch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.kernels import attention_fusion, window_attention
from cudaspeed.kernels.attention_fusion import FusedAttention, Scores, attend
from cudaspeed.models.execution import ExecutionMode
from cudaspeed.models.info import model_info
from cudaspeed.models.runner import ModelRunner
from cudaspeed.pipeline.fallback import StepMaker
from cudaspeed.upscale_engine import upscale

WINDOWS = {"depths": [2], "embed_dim": 16, "num_heads": [2], "upscale": 2, "upsampler": "pixelshuffle"}
PLAIN = ExecutionMode("fp32", autocast=False, channels_last=False)
FUSED = ExecutionMode("fp32", autocast=False, channels_last=False, kernels="attention")


def made(architecture: object, network: torch.nn.Module) -> ImageModelDescriptor:
    return architecture.load(network.state_dict()).eval()


MODELS: dict[str, Callable[[], ImageModelDescriptor]] = {
    "swinir": zoo.swinir,
    "swin2sr": lambda: made(Swin2SRArch(), Swin2SR(**WINDOWS, window_size=8)),
    "hat": lambda: made(HATArch(), HAT(**WINDOWS, window_size=8, compress_ratio=4, squeeze_factor=8)),
    "drct": lambda: made(DRCTArch(), DRCT(**{**WINDOWS, "depths": [6], "num_heads": [2]}, window_size=16, gc=8)),
    "dat": lambda: made(DATArch(), DAT(embed_dim=16, split_size=[8, 16], depth=[2], num_heads=[2], upscale=2)),
    "rgt": lambda: made(RGTArch(), RGT(embed_dim=16, depth=[4], num_heads=[2], split_size=[8, 16], upscale=2)),
}


@pytest.fixture
def attended(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes of the queries of what is computed in one operation."""
    shapes: list[torch.Size] = []

    def noted(query: Tensor, *more: object) -> Tensor:
        shapes.append(query.shape)
        return attend(query, *more)

    monkeypatch.setattr(attention_fusion, "attend", noted)
    return shapes


def qkv(batch: int = 6, heads: int = 2, rows: int = 10, columns: int = 12, channels: int = 4) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(batch, heads, length, channels) for length in (rows, columns, columns)]


def same(compute: Callable[..., Tensor], *tensors: Tensor) -> None:
    """With and without, the same comes out."""
    truth = compute(*(tensor.clone() for tensor in tensors))
    with torch.inference_mode(), FusedAttention():
        result = compute(*tensors)
        torch.testing.assert_close(result + 0, truth, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_models_give_the_same_picture_and_hold_no_scores(name: str, attended: list[torch.Size]) -> None:
    torch.manual_seed(0)
    model = MODELS[name]()
    x = zoo.photograph(48, 64).permute(0, 3, 1, 2)
    with torch.inference_mode():
        truth = ModelRunner(model, PLAIN).forward(x)
        assert not attended
        torch.testing.assert_close(ModelRunner(model, FUSED).forward(x), truth, atol=1e-5, rtol=1e-5)
    assert attended, "no attention was found"


class Peak(TorchDispatchMode):
    """The bytes of the largest tensor made."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, list | tuple) else [result]:
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("own", [True, False], ids=["our kernels", "torch's"])
def test_the_estimate_is_of_what_is_made(own: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ours add two biases on the way; torch's want their sum, which is as large as scores."""
    monkeypatch.setattr(window_attention, "_library", None)
    if own and not window_attention.prepare(tmp_path):
        pytest.skip("the kernels cannot be built here: not Linux, or no C++ compiler")
    largest = []
    for device in ("meta", "cpu"):
        query, keys, values = (torch.zeros(16, 2, 64, 8, device=device) for _ in range(3))
        biases = [torch.zeros(2, 64, 64, device=device), torch.zeros(16, 1, 64, 64, device=device)]
        with torch.inference_mode(), Peak() as peak:
            attend(query, keys, values, biases)
        largest.append(peak.largest)
    scores = 16 * 2 * 64 * 64 * 4
    assert largest[0] == largest[1] if own else largest[0] == scores <= largest[1]
    assert (largest[0] < scores) == own


def test_windows_that_are_large_take_less_memory() -> None:
    """What is planned for: scores of 256 by 256 a window and head are most of what this model holds."""
    model = made(HATArch(), HAT(**WINDOWS, window_size=16, compress_ratio=4, squeeze_factor=8))
    steps = StepMaker(model, model_info(model), UpscaleOptions(), StandaloneContext("cpu"), new_sessions())
    costs = [steps.make(mode, shared=False).cost.exact for mode in (PLAIN, FUSED)]
    assert costs[1].per_pixel < 0.8 * costs[0].per_pixel


def test_scale_bias_and_masks_are_taken_in(attended: list[torch.Size]) -> None:
    bias, mask, temperature = torch.randn(2, 10, 12), torch.randn(3, 10, 12), torch.rand(2, 1, 1)

    def compute(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q * 0.5) @ k.transpose(-2, -1) * temperature / 2 + bias.unsqueeze(0)
        assert scores.shape == (6, 2, 10, 12)
        scores = scores.view(2, 3, 2, 10, 12) + mask.unsqueeze(1).unsqueeze(0)
        probabilities = F.dropout(F.softmax(scores.view(-1, 2, 10, 12), dim=-1, dtype=scores.dtype), 0.1, False)
        return (probabilities @ v).transpose(1, 2).reshape(6, 10, 8)

    same(compute, *qkv())
    assert attended == [(6, 2, 10, 4)]


def test_probabilities_in_another_grouping(attended: list[torch.Size]) -> None:
    same(lambda q, k, v: (q @ k.mT).softmax(-1).view(2, 3, 2, 10, 12) @ v.unflatten(0, (2, 3)), *qkv())
    assert attended == [(2, 3, 2, 10, 4)]


def test_values_of_another_width_than_keys(attended: list[torch.Size]) -> None:
    wide = torch.randn(6, 2, 12, 9)
    same(lambda q, k, v: (q @ k.mT).softmax(-1) @ wide, *qkv())
    assert not attended


@pytest.mark.parametrize("batched", ["bmm", "matmul", "five dimensions", "in place"])
def test_it_is_found_however_it_is_written(batched: str, attended: list[torch.Size]) -> None:
    bias = torch.randn(10, 12)

    def compute(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if batched == "bmm":
            q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
            return torch.bmm((bias + torch.bmm(q, k.mT)).softmax(-1), v)
        if batched == "five dimensions":
            q, k, v = q.unflatten(0, (2, 3)), k.unflatten(0, (2, 3)), v.unflatten(0, (2, 3))
        scores = torch.matmul(q, k.mT)
        scores += bias
        return torch.matmul(torch.softmax(scores, -1), v)

    same(compute, *qkv())
    assert len(attended) == 1


@pytest.mark.parametrize(
    "then",
    [
        lambda s, v: s.sum(-1),
        lambda s, v: s.softmax(-2) @ v,
        lambda s, v: s.sigmoid() @ v,
        lambda s, v: s.softmax(-1).mean(-1),
        lambda s, v: s.clamp_(0, 1) @ v,
        lambda s, v: s.masked_fill(s > 0, float("-inf")).softmax(-1).nan_to_num() @ v,
        lambda s, v: torch.cat([s, s], -2),
        lambda s, v: 1 - s,
        lambda s, v: s[..., 1:, :].relu(),
        lambda s, v: (s * torch.arange(12.0)).softmax(-1) @ v,
        lambda s, v: (s + s).softmax(-1) @ v,
        lambda s, v: s.softmax(-1) @ v[..., :2],
        lambda s, v: s.permute(0, 2, 1, 3).reshape(6, 10, 24),
        lambda s, v: s.view(6, 20, 12) @ v.flatten(0, 1)[:6],
        lambda s, v: (s.softmax(-1) + 1) @ v,
        lambda s, v: (s + 1).softmax(-1) * 2,
        lambda s, v: torch.topk(s, 3, -1).values,
        lambda s, v: torch.softmax(input=s, dim=-1) @ v,
        lambda s, v: torch.add(input=s, other=torch.ones(12)) @ v,
        lambda s, v: torch.reshape(s, shape=(12, 10, 12)).sum(-1),
        lambda s, v: torch.matmul(s.softmax(-1), other=v),
        lambda s, v: (s + torch.ones(12).double()).softmax(-1) @ v.double(),
        lambda s, v: (s + torch.arange(12)).softmax(-1) @ v,
        lambda s, v: torch.add(s, torch.ones(12), alpha=2) @ v,
        lambda s, v: s.div(0.3, rounding_mode="floor"),
        lambda s, v: s.softmax(-1, torch.float64).sum(-1),
    ],
)
def test_what_only_looks_like_attention_is_computed_as_it_was_asked_for(
    then: Callable[[Tensor, Tensor], Tensor],
) -> None:
    same(lambda q, k, v: then(q @ k.mT, v), *qkv())


@pytest.mark.parametrize("change", [Tensor.relu_, Tensor.zero_, lambda s: s.masked_fill_(s > 0, -9.0)])
def test_what_is_done_to_scores_in_place_is_not_lost(change: Callable[[Tensor], Tensor]) -> None:
    def compute(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.mT
        change(scores)
        scores[..., :2] = 0.5
        return scores.softmax(-1) @ v

    same(compute, *qkv())


def test_products_that_are_none_are_left_alone() -> None:
    """Weights, vectors, and what is narrower than it is long, as attention between channels is."""
    q, k, _ = qkv(columns=3)
    with torch.inference_mode(), FusedAttention():
        for product in (q @ k.mT, q @ torch.randn(4, 12), torch.randn(3, 4) @ torch.randn(4, 12)):
            assert type(product) is Tensor
        assert type(q @ torch.randn(6, 2, 4, 5)) is Scores
    assert type(q @ torch.randn(6, 2, 4, 5)) is Tensor, "only within"


def test_it_is_used_where_it_can_be_and_gives_the_same_picture(monkeypatch: pytest.MonkeyPatch, attended: list) -> None:
    monkeypatch.setattr("cudaspeed.kernels.winograd.prepare", lambda folder, patience=0.0: False)
    options, image, model = UpscaleOptions(precision="fp32", compile=False), zoo.photograph(40, 48), zoo.swinir()
    results = {}
    for kernels in ("attention", "plain"):
        with monkeypatch.context() as patch:
            if kernels == "plain":
                patch.setattr("cudaspeed.kernels.window_attention.prepare", lambda folder, patience=0.0: False)
            results[kernels] = upscale(image, model, options, StandaloneContext("cpu"), new_sessions())
        assert results[kernels].report.kernels == kernels
    torch.testing.assert_close(results["attention"].image, results["plain"].image, atol=1e-5, rtol=0)


def test_the_first_picture_does_not_wait_until_kernels_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is it computed by one kind of them, and the next by two."""
    asked: list[float] = []

    def pending(folder: Path, patience: float = 0.0) -> bool:
        asked.append(patience)
        return False

    monkeypatch.setattr("cudaspeed.kernels.winograd.prepare", pending)
    monkeypatch.setattr("cudaspeed.models.autotune.is_pending", lambda name: name == "winograd")
    options, image, model = UpscaleOptions(precision="fp32", compile=False), zoo.photograph(40, 48), zoo.swinir()
    report = upscale(image, model, options, StandaloneContext("cpu"), new_sessions()).report
    assert asked == [0.0]
    assert report.kernels == "plain"


def test_kernels_that_fail_on_a_large_picture_cost_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """They did on a small one; torch's own still compute it, now and in later sessions."""
    model, options = zoo.swinir(), UpscaleOptions(precision="fp32", compile=False)
    right, large = attention_fusion.attend, zoo.photograph(96, 160)

    def too_many(query: Tensor, *more: object) -> Tensor:
        if len(query) > 200 and not query.is_meta:
            raise RuntimeError("invalid configuration argument")
        return right(query, *more)

    monkeypatch.setattr(attention_fusion, "attend", too_many)
    monkeypatch.setattr("cudaspeed.kernels.transformer_block.ready", lambda: False)  # attention is in its blocks
    sessions = new_sessions()
    assert upscale(zoo.photograph(40, 48), model, options, StandaloneContext("cpu"), sessions).report.kernels != "plain"
    result = upscale(large, model, options, StandaloneContext("cpu"), sessions)
    assert result.report.kernels == "plain"
    assert "kernels failed on a picture and torch's are used: " in result.report.warnings[0]
    assert "invalid configuration argument" in result.report.warnings[0]
    later = upscale(large, model, options, StandaloneContext("cpu"), new_sessions())
    assert not later.report.warnings
    torch.testing.assert_close(later.image, result.image, atol=1e-5, rtol=0)
