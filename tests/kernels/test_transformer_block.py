"""Our transformer blocks on a CPU make what spandrel's make, whatever their sizes, and take over no others."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.photograph import EXAMPLE
from bench.seams import random_model, read
from cudaspeed.kernels import transformer_block, winograd
from cudaspeed.kernels.heartbeat import heard_by
from cudaspeed.kernels.rewrite import rewrite
from cudaspeed.kernels.transformer_block import FusedTransformerBlock, Kernels, fused, suits
from cudaspeed.kernels.transformer_example import Shape, by_torch, example

FP32, BF16 = torch.float32, torch.bfloat16
PRODUCTS = (FP32, BF16)
SHAPES = (
    Shape(60, 6, 120, 8, 0),
    Shape(60, 6, 120, 8, 4),
    Shape(64, 2, 256, 8, 3),
    Shape(180, 6, 360, 16, 8),
    Shape(18, 1, 30, 4, 2),
    Shape(8, 2, 2, 12, 5),
)


@pytest.fixture(autouse=True)
def built(tmp_path: Path) -> None:
    if not all(kernels.prepare(tmp_path / "compiled") for kernels in (transformer_block, winograd)):
        pytest.skip("the kernels cannot be built here: not Linux, or no C++ compiler")


def block_of(shape: Shape, seed: int = 0) -> Any:
    return example(shape, torch.Generator().manual_seed(seed)).requires_grad_(False)


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)) - 0.5


def assert_same(found: Tensor, truth: Tensor, products: torch.dtype = FP32) -> None:
    """Of numbers of eight bits, some hundred are added up."""
    spread = float((found - truth).square().mean().sqrt() / truth.square().mean().sqrt())
    assert found.shape == truth.shape
    assert spread < (1e-6 if products == FP32 else 1e-2)


@pytest.mark.parametrize("products", PRODUCTS, ids=str)
@pytest.mark.parametrize("across", [1, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_of_all_kinds(shape: Shape, across: int, products: torch.dtype) -> None:
    """With one window across, and with several, of which the last are torn apart by the shift."""
    block, size = block_of(shape), (2, 2 * shape.window, across * shape.window, shape.channels)
    kernels = transformer_block._kernels()
    packed = kernels.pack(block, products)
    for added in (None, noise(*size)):
        result = kernels.compute(noise(*size), packed, shape, (1e-5, 1e-5), added, 0.25)
        assert_same(result, by_torch(block, shape, noise(*size), 0.0 if added is None else added * 0.25), products)


@pytest.mark.parametrize("products", PRODUCTS, ids=str)
@pytest.mark.parametrize("name", ["SwinIR", "DRCT", "HAT"])
def test_each_block_of_a_network_gives_what_spandrels_gives(name: str, products: torch.dtype) -> None:
    """HAT's with what its convolutions make."""
    picture = read(EXAMPLE, 128)[..., :48, :64]
    model = random_model(name, picture).model
    blocks, seen = [module for module in model.modules() if suits(module)], []
    for block in blocks:
        block.register_forward_hook(lambda block, given, result: seen.append((block, given, result)))
    with torch.inference_mode():
        model(picture)
        assert len(seen) == len(blocks) > 1
        for block, given, result in seen:
            block._forward_hooks.clear()
            ours = fused(block, products)
            kept = given[0].clone()
            # what a block changes is little beside what it is given, which it adds
            assert_same(ours(*given) - given[0], result - given[0], products)
            assert torch.equal(given[0], kept)


def test_a_networks_blocks_are_taken_over_where_the_kernels_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = read(EXAMPLE, 128)[..., :64, :64]
    ours, without = random_model("HAT", picture).model, random_model("HAT", picture).model
    rewrite(ours, "winograd")
    monkeypatch.setattr(transformer_block, "ready", lambda: False)
    rewrite(without, "winograd")

    def blocks(model: nn.Module) -> int:
        return sum(isinstance(module, FusedTransformerBlock) for module in model.modules())

    assert blocks(ours) > 0 == blocks(without)
    with torch.inference_mode():
        assert_same(ours(picture), without(picture))


def test_what_is_ill_stays_in_its_window() -> None:
    shape = SHAPES[0]
    x = noise(1, 16, 16, shape.channels)
    x[0, 3, 9, 5] = torch.nan
    kernels = transformer_block._kernels()
    result = kernels.compute(x, kernels.pack(block_of(shape)), shape, (1e-5, 1e-5))
    assert bool(result[0, :8, 8:].isnan().all())
    assert bool(result[0, 8:].isfinite().all())
    assert bool(result[0, :8, :8].isfinite().all())


def test_as_many_threads_as_torch_may_use_and_any_pieces_give_the_same() -> None:
    shape = SHAPES[1]
    kernels, x, before, results = transformer_block._kernels(), noise(3, 64, 72, 60), torch.get_num_threads(), []
    packed = kernels.pack(block_of(shape))
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(kernels.compute(x, packed, shape, (1e-5, 1e-5)))
    finally:
        torch.set_num_threads(before)
    beats: list[int] = []
    with heard_by(beats.append):
        results.append(kernels.compute(x, packed, shape, (1e-5, 1e-5)))
    assert all(torch.equal(result, results[0]) for result in results)


def test_a_long_one_can_be_stopped_in_its_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    shape, kernels, beats = SHAPES[0], transformer_block._kernels(), list[int]()
    monkeypatch.setattr(transformer_block, "_MOST_WORK", 4 * shape.multiplications)

    def stop(steps: int) -> None:
        beats.append(steps)
        if len(beats) == 2:
            raise KeyboardInterrupt

    with heard_by(stop), pytest.raises(KeyboardInterrupt):
        kernels.compute(noise(1, 64, 64, 60), kernels.pack(block_of(shape)), shape, (1e-5, 1e-5))
    assert beats == [0, 0]


def test_what_computes_something_else_is_left_alone() -> None:
    picture = read(EXAMPLE, 128)[..., :64, :64]
    for name in ("Swin2SR", "ATD", "DAT"):
        assert not any(map(suits, random_model(name, picture).model.modules()))
    model = random_model("SwinIR", picture).model
    block: Any = next(filter(suits, model.modules()))
    block.mlp.act = nn.ReLU()
    assert not suits(block)
    block.mlp.act = nn.GELU()
    assert suits(block)
    block.attn.register_forward_hook(lambda *_: None)
    assert not suits(block)
    assert not suits(block_of(SHAPES[0])), "nobody knows what it does with its parts"


WRONG = {
    "x is half": ("x is of torch.float16", {"x": torch.zeros(1, 8, 8, 60, dtype=torch.float16)}),
    "x has other channels": ("x has shape", {"x": torch.zeros(1, 8, 8, 64)}),
    "x has half a window": ("multiples of 8", {"x": torch.zeros(1, 8, 12, 60)}),
    "x has gaps": ("x is not dense", {"x": torch.zeros(1, 8, 8, 120)[..., ::2]}),
    "added is smaller": ("added has shape", {"added": torch.zeros(1, 8, 60)}),
    "added has gaps": ("added is not dense", {"added": torch.zeros(1, 8, 8, 120)[..., ::2]}),
    "the weights are another block's": ("second has shape", {"shape": Shape(60, 6, 128, 8, 0)}),
}


@pytest.mark.parametrize("which", WRONG)
def test_operands_whose_memory_it_would_misread_are_refused(which: str) -> None:
    said, wrong = WRONG[which]
    kernels = transformer_block._kernels()
    given = {"x": noise(1, 8, 8, 60), "packed": kernels.pack(block_of(SHAPES[0])), "shape": SHAPES[0], **wrong}
    with pytest.raises(ValueError, match=said):
        kernels.compute(**given, epsilons=(1e-5, 1e-5))


@pytest.mark.parametrize("flags", [("-DAS_IF_AVX512", "-mno-avx512bf16"), ("-mno-avx512bf16",), ()], ids=" ".join)
def test_processors_with_other_registers_or_without_bfloat16_give_the_same(
    flags: tuple[str, ...], tmp_path: Path
) -> None:
    if not shutil.which("g++"):
        pytest.skip("no g++ to build it with")
    source = Path(transformer_block.__file__).with_name("csrc") / "transformer_block.cpp"
    library = tmp_path / "transformer_block.so"
    usual = ("-O1", "-march=native", "-std=c++17", "-fPIC", "-fopenmp", "-shared", "-Wno-psabi")
    subprocess.run(["g++", *usual, *flags, "-o", str(library), str(source)], check=True)
    kernels = Kernels(ctypes.CDLL(str(library)))
    for shape in SHAPES:
        block, x = block_of(shape), noise(1, 2 * shape.window, 2 * shape.window, shape.channels)
        for products in PRODUCTS:
            result = kernels.compute(x, kernels.pack(block, products), shape, (1e-5, 1e-5))
            assert_same(result, by_torch(block, shape, x, 0.0), products)
