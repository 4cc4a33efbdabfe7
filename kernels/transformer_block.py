"""Transformer blocks of attention within windows on a CPU, each in one pass over its pixels: the modules to
csrc/transformer_block.cpp, in place of those of SwinIR (arXiv 2108.10257), DRCT (arXiv 2404.00722) and HAT (arXiv
2205.04437)."""

from __future__ import annotations

import ctypes
import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..api.upstream import has_hooks
from .build import code_of, load_library, loaded_library
from .convolution import is_gelu
from .heartbeat import beat, current_listener
from .interface import BlockLayers, BlockPictures, BlockSizes
from .numerics import Limits, compare
from .operands import check_operand
from .packing import in_blocks
from .transformer_example import Shape, by_torch, example, relative_places

# spandrel's architectures, and the classes of their blocks: norm, attention, norm, two layers; HAT's with convolutions.
_BLOCKS = {"SwinIR": "SwinTransformerBlock", "DRCT": "SwinTransformerBlock", "HAT": "HAB"}
_PARTS = ("norm1", "attn", "norm2", "mlp")
_SIDES = 4  # windows' sides are multiples of it: their pixels fill registers
_LEAST_WORK = 1 << 20  # multiplications that threads are worth; as for convolutions: all threads or one
_MOST_WORK = 1 << 30  # at once, where somebody listens
_CPU = torch.device("cpu")
_LIMITS = {torch.float32: Limits(1e-4), torch.bfloat16: Limits(2e-1)}  # rounding is a tenth of it


def prepare(folder: Path, patience: float = 0.0) -> bool:
    """Whether the kernels are there: in this process, or in the store in `folder`, into which they are built else, for
    which nobody waits longer than `patience` seconds."""
    return load_library("transformer_block", folder, _flaw, patience) is not None


def ready() -> bool:
    """Whether `prepare` has found them."""
    return bool(code_of("transformer_block"))


class Packed(NamedTuple):
    """A block as the kernels take it: weights float32 or bfloat16, all else float32."""

    qkv: Tensor
    qkv_bias: Tensor
    projection: Tensor
    projection_bias: Tensor
    first: Tensor
    first_bias: Tensor
    second: Tensor
    second_bias: Tensor
    biases: Tensor
    """[heads, window * window, window * window]"""


def suits(module: nn.Module) -> bool:
    """Whether `module` is a block that the kernels can take over, with what `pack` packs."""
    place = type(module).__module__.split(".")
    name = _BLOCKS.get(place[2]) if place[:2] == ["spandrel", "architectures"] and len(place) > 2 else None
    if name != type(module).__name__:
        return False
    block: Any = module
    if any(map(has_hooks, module.modules())) or not all(hasattr(block, part) for part in _PARTS):
        return False
    shape, norms = shape_of(block), (block.norm1, block.norm2)
    return (
        all(type(norm) is nn.LayerNorm and norm.elementwise_affine for norm in norms)
        and is_gelu(block.mlp.act)
        and shape.window % _SIDES == 0
        and shape.channels % (2 * shape.heads) == 0
        and shape.hidden % 2 == 0
    )


def shape_of(block: Any) -> Shape:
    """Of one of spandrel's blocks."""
    return Shape(block.dim, block.num_heads, block.mlp.fc1.out_features, block.window_size, block.shift_size)


def parts_of(block: Any) -> Iterator[nn.Module]:
    """What the kernels compute of a block that `suits`: of HAT's, all but its convolutions."""
    for part in _PARTS:
        yield from getattr(block, part).modules()


class Kernels:
    """The library's functions, for tensors."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.scratch_bytes.restype = ctypes.c_int64
        library.compute.argtypes, library.compute.restype = (ctypes.c_void_p,) * 4, None
        self._widest: int = library.widest()

    def pack(self, block: Any, products: torch.dtype = torch.float32) -> Packed:
        """A block's parts; `products`, float32 or bfloat16, is what is multiplied."""
        shape, attention, mlp = shape_of(block), block.attn, block.mlp
        area = shape.window**2
        scale = torch.cat([torch.full((shape.channels,), float(attention.scale)), torch.ones(2 * shape.channels)])
        table = attention.relative_position_bias_table.detach().float()
        biases = table[relative_places(shape.window)].view(area, area, shape.heads).permute(2, 0, 1).contiguous()
        layers = (
            _behind(block.norm1, attention.qkv, scale),
            _behind(None, attention.proj),
            _behind(block.norm2, mlp.fc1),
            _behind(None, mlp.fc2),
        )
        packed = (self._packed(*layer, products) for layer in layers)
        return Packed(*itertools.chain.from_iterable(packed), biases)  # type: ignore[call-arg]  # eight of them

    def compute(
        self,
        x: Tensor,
        packed: Packed,
        shape: Shape,
        epsilons: tuple[float, float],
        added: Tensor | None = None,
        scale: float = 1.0,
    ) -> Tensor:
        """What the block makes of `x` [N, h, w, C] float32 on the CPU, dense, sides multiples of the window; `added`,
        of that shape, times `scale` comes to what attention adds. No more threads than torch may use. Beats within
        where it takes long. Raises `ValueError` for anything else, and whatever a listener raises."""
        area = shape.window**2
        _check(x, packed, shape, added, self._widest)
        count, height, width, _ = x.shape
        windows = count * height * width // area
        result = torch.empty_like(x)
        threads = torch.get_num_threads() if windows * shape.multiplications >= _LEAST_WORK else 1
        sizes = BlockSizes(
            *(count, height, width, shape.channels, shape.heads, shape.window, shape.shift, shape.hidden),
            *(threads, packed.qkv.dtype == torch.bfloat16),
        )
        pointers = [tensor.data_ptr() for tensor in packed]
        layers = BlockLayers(tuple(tuple(pointers[k : k + 2]) for k in range(0, 8, 2)), pointers[8], epsilons)
        pictures = BlockPictures(x.data_ptr(), None if added is None else added.data_ptr(), result.data_ptr(), scale)
        scratch = torch.empty(self._library.scratch_bytes(ctypes.byref(sizes)), dtype=torch.uint8)
        at_once = max(threads, _MOST_WORK // shape.multiplications) if current_listener() else max(windows, 1)
        for first in range(0, windows, at_once):
            if first:
                beat(0)
            sizes.first, sizes.count = first, min(at_once, windows - first)
            self._library.compute(*map(ctypes.byref, (pictures, layers, sizes)), scratch.data_ptr())
        return result

    def _packed(self, weight: Tensor, bias: Tensor, products: torch.dtype) -> tuple[Tensor, Tensor]:
        lanes = self._widest
        more = -len(weight) % lanes
        return in_blocks(F.pad(weight.to(products), (0, 0, 0, more)).mT, lanes, products), F.pad(bias, (0, more))


class FusedTransformerBlock(nn.Module):
    """A block of SwinIR or DRCT: x [N, h * w, C] float32 -> the same."""

    def __init__(self, block: Any, products: torch.dtype = torch.float32) -> None:
        super().__init__()
        for name, value in _kernels().pack(block, products)._asdict().items():
            self.register_buffer(name, value)
        self._shape, self._epsilons = shape_of(block), (block.norm1.eps, block.norm2.eps)

    def forward(self, x: Tensor, x_size: tuple[int, int]) -> Tensor:
        return self.transformed(x, x_size)

    def transformed(
        self, x: Tensor, x_size: tuple[int, int], added: Tensor | None = None, scale: float = 1.0
    ) -> Tensor:
        """What it makes of `x`, of pictures of `x_size` (h, w); see `Kernels.compute`."""
        packed = Packed(*(getattr(self, name) for name in Packed._fields))
        pictures = x.contiguous().view(len(x), *x_size, x.shape[-1])
        return _kernels().compute(pictures, packed, self._shape, self._epsilons, added, scale).view(x.shape)


class FusedHybridBlock(nn.Module):
    """HAT's block, which adds what convolutions make of the norm: x [N, h * w, C] float32 -> the same."""

    def __init__(self, block: Any, products: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.norm, self.convolutions, self._scale = block.norm1, block.conv_block, float(block.conv_scale)
        self.block = FusedTransformerBlock(block, products)

    def forward(self, x: Tensor, x_size: tuple[int, int], *_places_and_mask: Tensor) -> Tensor:
        normed = self.norm(x).view(len(x), *x_size, x.shape[-1])
        convolved = self.convolutions(normed.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous()
        return self.block.transformed(x, x_size, convolved, self._scale)


def fused(block: nn.Module, products: torch.dtype) -> nn.Module:
    """The module in place of a block that `suits`."""
    kind = FusedHybridBlock if hasattr(block, "conv_block") else FusedTransformerBlock
    return kind(block, products)


def _behind(norm: nn.LayerNorm | None, layer: nn.Linear, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A layer's weights and bias, times `scale` of each output, with those of the `norm` before it in them."""
    weight = layer.weight.detach().float()
    bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach().float()
    if norm is not None:
        bias = bias + weight @ norm.bias.detach().float()
        weight = weight * norm.weight.detach().float()
    return (weight, bias) if scale is None else (weight * scale[:, None], bias * scale)


def _check(x: Tensor, packed: Packed, shape: Shape, added: Tensor | None, lanes: int) -> None:
    """Raise `ValueError` for what the kernels, which get bare pointers, cannot take."""
    if x.ndim != 4 or x.shape[3] != shape.channels or x.shape[1] % shape.window or x.shape[2] % shape.window:
        raise ValueError(
            f"x has shape {tuple(x.shape)}: it must be [N, h, w, {shape.channels}], sides multiples of {shape.window}"
        )
    for name, tensor in {"x": x, "added": added}.items():
        if tensor is not None:
            check_operand(name, tensor, x.shape, torch.float32, _CPU)
            if not tensor.is_contiguous():
                raise ValueError(f"{name} is not dense: its strides are {tensor.stride()}")
    area, channels, hidden = shape.window**2, shape.channels, shape.hidden
    sizes = (channels, 3 * channels), (channels, channels), (channels, hidden), (hidden, channels)
    layers = zip(Packed._fields[0:8:2], packed[0:8:2], packed[1:8:2], sizes, strict=True)
    for name, weights, bias, (inputs, outputs) in layers:
        wide = outputs + -outputs % lanes
        check_operand(name, weights, (inputs * wide,), packed.qkv.dtype, _CPU)
        check_operand(f"{name}'s bias", bias, (wide,), torch.float32, _CPU)
    check_operand("biases", packed.biases, (shape.heads, area, area), torch.float32, _CPU)


@functools.cache
def _kernels() -> Kernels:
    """The kernels that `prepare` has found."""
    return Kernels(loaded_library("transformer_block"))


def _flaw(library: ctypes.CDLL) -> str | None:
    """What is wrong with the kernels just loaded, if anything is: shifted and not."""
    kernels, generator = Kernels(library), torch.Generator().manual_seed(0)
    for shape in (Shape(20, 2, 26, 4, 0), Shape(36, 3, 44, 8, 3)):
        block = example(shape, generator)
        sides = 3 * shape.window, 2 * shape.window
        x, added = (torch.rand(2, *sides, shape.channels, generator=generator) - 0.5 for _ in range(2))
        truth = by_torch(block, shape, x, added * 0.5)
        for products, limits in _LIMITS.items():
            result = kernels.compute(x, kernels.pack(block, products), shape, (1e-5, 1e-5), added, 0.5)
            if flaw := compare(result, truth, limits):
                return flaw
    return None
