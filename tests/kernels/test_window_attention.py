"""Our kernels for attention within windows: the same as torch's operations one by one, whatever the sizes."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor

from cudaspeed.kernels import attention_fusion, window_attention
from cudaspeed.kernels.attention_fusion import FusedAttention
from cudaspeed.kernels.window_attention import attend, prepare, suits
from cudaspeed.models.execution import ExecutionMode
from cudaspeed.models.runner import ModelRunner

ROUNDED: dict[str, Any] = {"rtol": 0.0, "atol": 6e-2}  # of numbers of eight bits, some hundred added up


@pytest.fixture(autouse=True)
def built(tmp_path: Path) -> None:
    if not prepare(tmp_path / "compiled"):
        pytest.skip("the kernels cannot be built here: not Linux, or no C++ compiler")


def windows(count: int, heads: int, rows: int, columns: int, channels: int) -> list[Tensor]:
    """Queries, keys and values as models have them: a permuted view of what one linear layer gave."""
    torch.manual_seed(0)
    both = torch.randn(count, max(rows, columns), 3, heads, channels).permute(2, 0, 3, 1, 4)
    return [both[0, :, :, :rows], both[1, :, :, :columns], both[2, :, :, :columns]]


def plain(query: Tensor, keys: Tensor, values: Tensor, biases: Sequence[Tensor]) -> Tensor:
    scores = query @ keys.mT
    for bias in biases:
        scores = scores + bias
    return scores.softmax(-1) @ values


def assert_same(found: Tensor, truth: Tensor) -> None:
    torch.testing.assert_close(found, truth, atol=1e-5, rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize(
    "sizes",
    [
        (1, 1, 1, 8, 1),
        (64, 6, 64, 64, 30),
        (5, 3, 13, 24, 10),
        (2, 2, 256, 256, 24),
        (3, 1, 7, 576, 16),
        (1, 2, 50, 40, 64),
    ],
)
def test_sizes_of_all_kinds(sizes: tuple[int, int, int, int, int]) -> None:
    query, keys, values = windows(*sizes)
    count, heads, rows, columns, _ = sizes
    everywhere, masks = torch.randn(heads, rows, columns), torch.randn(count, 1, rows, columns)
    for biases in ([], [everywhere], [everywhere, masks], [masks, everywhere, torch.randn(1, 1, 1, columns)]):
        assert suits(query, keys, values, biases)
        assert_same(attend(query, keys, values, biases), plain(query, keys, values, biases))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e4])
def test_scores_of_any_size(scale: float) -> None:
    """Beyond 87 below the largest, e^x is nothing in float32."""
    query, keys, values = windows(2, 2, 20, 48, 8)
    assert_same(attend(query * scale, keys, values, []), plain(query * scale, keys, values, []))


def test_what_a_mask_hides_counts_for_nothing() -> None:
    query, keys, values = windows(2, 2, 16, 16, 8)
    mask = torch.zeros(2, 1, 16, 16)
    mask[..., ::2] = float("-inf")
    hidden = values.clone()
    hidden[..., ::2, :] = 1e30
    assert_same(attend(query, keys, hidden, [mask]), attend(query, keys, values, [mask]))
    assert_same(attend(query, keys, values, [mask]), plain(query, keys, values, [mask]))


@pytest.mark.parametrize("ill", [float("nan"), float("inf"), float("-inf")])
def test_what_is_ill_stays_ill(ill: float) -> None:
    """Or nobody would see it: where torch's result is no number, neither is ours."""
    query, keys, values = windows(2, 2, 16, 16, 8)
    query, keys, values = query.clone(), keys.clone(), values.clone()
    query[0, 0, 3, 2] = ill
    keys[1, 0, 5, 1] = ill
    values[1, 1, 4, 4] = ill
    found, truth = attend(query, keys, values, []), plain(query, keys, values, [])
    assert torch.equal(found.isfinite(), truth.isfinite())


def test_rows_that_are_hidden_whole_are_ill_as_torchs() -> None:
    query, keys, values = windows(1, 1, 8, 8, 8)
    mask = torch.zeros(8, 8)
    mask[2] = float("-inf")
    assert_same(attend(query, keys, values, [mask]), plain(query, keys, values, [mask]))


def test_views_of_any_strides() -> None:
    query, keys, values = windows(2, 2, 16, 24, 8)
    strange = [query.mT.contiguous().mT, keys.flip(0), values[:, :1].expand(2, 2, 24, 8)]
    bias = torch.randn(24, 16).mT
    assert_same(attend(*strange, [bias]), plain(*strange, [bias]))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads(threads: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        query, keys, values = windows(9, 3, 64, 64, 16)
        assert_same(attend(query, keys, values, []), plain(query, keys, values, []))
    finally:
        torch.set_num_threads(before)


def test_registers_of_sixteen_floats_give_the_same(tmp_path: Path) -> None:
    """As processors with AVX-512 have them, in code that runs on others."""
    if not shutil.which("g++"):
        pytest.skip("no g++ to build it with")
    source = Path(window_attention.__file__).with_name("csrc") / "attention.cpp"
    flags = ("-O1", "-march=native", "-std=c++17", "-fPIC", "-fopenmp", "-shared", "-DAS_IF_AVX512", "-Wno-psabi")
    subprocess.run(["g++", *flags, "-o", str(tmp_path / "wide.so"), str(source)], check=True)
    library = ctypes.CDLL(str(tmp_path / "wide.so"))
    assert library.widest() == 16
    for sizes in [(2, 2, 64, 64, 30), (2, 1, 13, 40, 10), (1, 1, 5, 16, 32)]:
        query, keys, values = windows(*sizes)
        bias = torch.randn(sizes[1], sizes[2], sizes[3])
        given, truth = (query, keys, values), plain(query, keys, values, [bias])
        assert_same(window_attention._attend(library, given, [bias], torch.float32), truth)
        torch.testing.assert_close(window_attention._attend(library, given, [bias], torch.bfloat16), truth, **ROUNDED)


@pytest.mark.parametrize("sizes", [(2, 2, 64, 64, 30), (2, 1, 13, 40, 11), (1, 3, 5, 16, 1), (3, 2, 61, 112, 24)])
def test_products_of_bfloat16s_differ_by_their_rounding(sizes: tuple[int, ...]) -> None:
    query, keys, values = windows(*sizes)
    bias = torch.randn(sizes[1], sizes[2], sizes[3])
    truth, exact = plain(query, keys, values, [bias]), attend(query, keys, values, [bias])
    found = attend(query, keys, values, [bias], torch.bfloat16)
    torch.testing.assert_close(found, truth, **ROUNDED)
    assert not torch.equal(found, exact), "they are what is asked for"
    ours = FusedAttention(torch.bfloat16)
    with ours:
        modelled = (query @ keys.mT + bias).softmax(-1) @ values
        with FusedAttention():
            assert torch.equal((query @ keys.mT + bias).softmax(-1) @ values, exact), "within, another mode's"
    assert torch.equal(modelled, found)


def test_what_does_not_suit_is_left_to_torch() -> None:
    query, keys, values = windows(2, 2, 16, 16, 8)
    assert suits(query, keys, values, [])
    assert not suits(query, keys[:, :, :12], values[:, :, :12], [])
    assert not suits(query.half(), keys.half(), values.half(), [])
    assert not suits(query, keys, values, [torch.zeros(16, 16, dtype=torch.float64)])
    assert not suits(query.to("meta"), keys.to("meta"), values.to("meta"), [])
    with torch.autocast("cpu", torch.bfloat16):
        assert not suits(query, keys, values, [])
        with FusedAttention():
            assert ((query @ keys.mT).softmax(-1) @ values).dtype == torch.bfloat16


def wrong_operands() -> dict[str, tuple[str, dict[int, Tensor]]]:
    """What the error says, and what is given instead of query, keys, values or a bias."""
    return {
        "float64": ("query is of torch.float64", {0: torch.zeros(2, 2, 16, 8, dtype=torch.float64)}),
        "half values": ("values is of torch.float16", {2: torch.zeros(2, 2, 16, 8, dtype=torch.float16)}),
        "no values": ("keys lies on meta", {1: torch.zeros(2, 2, 16, 8, device="meta")}),
        "keys of other windows": ("keys has shape", {1: torch.zeros(1, 2, 16, 8)}),
        "keys of other channels": ("keys has shape", {1: torch.zeros(2, 2, 16, 4)}),
        "fewer values than keys": ("values has shape", {2: torch.zeros(2, 2, 8, 8)}),
        "an odd number of keys": ("12 keys", {1: torch.zeros(2, 2, 12, 8), 2: torch.zeros(2, 2, 12, 8)}),
        "one window": ("must be", {0: torch.zeros(2, 16, 8)}),
        "a bias of float64": ("bias is of torch.float64", {3: torch.zeros(16, 16, dtype=torch.float64)}),
    }


@pytest.mark.parametrize("which", wrong_operands())
def test_operands_whose_memory_it_would_misread_are_refused(which: str) -> None:
    said, wrong = wrong_operands()[which]
    right = [*windows(2, 2, 16, 16, 8), torch.zeros(16, 16)]
    query, keys, values, bias = (wrong.get(number, tensor) for number, tensor in enumerate(right))
    with pytest.raises(ValueError, match=said):
        attend(query, keys, values, [bias])


def test_a_model_is_computed_by_them_and_can_still_be_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracer's tensors have no values: what is compiled is torch's own."""
    model, x = zoo.swinir(), zoo.photograph(24, 32).permute(0, 3, 1, 2)
    runner = ModelRunner(model, ExecutionMode("fp32", autocast=False, channels_last=False, kernels="attention"))
    calls = []
    right = window_attention.attend

    def counted(*given: Tensor) -> Tensor:
        calls.append(given)
        return right(*given)

    monkeypatch.setattr(attention_fusion.window_attention, "attend", counted)
    with torch.inference_mode():
        truth = runner.forward(x)
    assert calls
    calls.clear()

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = runner.module

        def forward(self, x: Tensor) -> Tensor:
            return runner.forward(x)

    with torch.no_grad():
        program = torch.export.export(Whole(), (x,), strict=False)
        assert not calls
        assert_same(program.module()(x), truth)
    assert any("scaled_dot_product" in str(node.target) for node in program.graph.nodes)
