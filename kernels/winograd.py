"""3x3 convolutions on a CPU by Winograd's method, twice as fast as oneDNN's: csrc/winograd.cpp.

F(4x4, 3x3) of Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2015 (arXiv 1509.09308): a quarter of
the multiplications. In float32 the results differ from the plain convolution's by some 1e-6 of the largest.

What is multiplied may be rounded to bfloat16: a processor that knows it multiplies twice as many at once. All else
stays float32, so that less is lost than where pictures are bfloat16 between the layers: the bundled model's x2 is 71 dB
from fp32, not 57.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import NamedTuple, TypeGuard, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from ..api.upstream import has_hooks
from .build import load_library, loaded_library
from .convolution import activation_slope, is_gelu
from .heartbeat import beat, current_listener
from .interface import ConvolutionSizes, Curve, Ending, Picture
from .numerics import Limits, compare
from .operands import check_dense, check_operand, check_writable
from .packing import pieces_in_blocks

# The transform of the weights, G in the paper, for points 0, +-3/4, +-3/2 and infinity, times 243: of whole numbers, so
# that sums of weights are exact in float64 and come out the same in whatever order, by however many threads, a matrix
# product adds them up.
_WEIGHTS = ((192, 0, 0), (-128, -96, -72), (-128, 96, -72), (32, 48, 72), (32, -48, 72), (0, 0, 243))
_TIMES = 243 * 243
# Times as many values are transformed weights, and some more: numpy, too, multiplies little by one thread.
_LARGER = 5
# What may be around the picture: zeros, so that the output is as large, or nothing.
EDGES = {(1, 1): 1, "same": 1, (0, 0): 0, "valid": 0}
_LANES = 8  # the kernels' channels come in multiples of it; others get company of zeros
_RUN = 12  # tiles that a thread takes at once: with 64 channels some 220 KB, which a core's cache holds
# Multiplications that threads are worth, about a tenth of a millisecond. All threads or one: OpenMP ends and makes anew
# those by which two teams in turn differ.
_LEAST_WORK = 1 << 23
_MOST_WORK = 1 << 30  # at once, where somebody listens: a tenth of a second, beside other work half of one
_CPU = torch.device("cpu")
_LIMITS = {torch.float32: Limits(2e-4), torch.bfloat16: Limits(2e-1)}  # the method's rounding is a fortieth of it


class Packed(NamedTuple):
    """A convolution made ready, C and O rounded up to multiples of 8: `weights` [36, C * O] in the kernel's order, of
    the type that is multiplied in, float32 or bfloat16, `bias` [O], the `slope` [O] by which negative results are
    multiplied (None: they stay), and the `curve` that they go through. `outputs` is O."""

    weights: Tensor
    bias: Tensor
    slope: Tensor | None
    curve: Curve

    @property
    def outputs(self) -> int:
        return self.bias.shape[0]


def prepare(folder: Path, patience: float = 0.0) -> bool:
    """Whether the kernels are there: in this process, or in the store in `folder`, into which they are built else, for
    which nobody waits longer than `patience` seconds."""
    return load_library("winograd", folder, _flaw, patience) is not None


def suits(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether `module` is a convolution that the kernels can take over."""
    return (
        type(module) is nn.Conv2d  # a subclass computes something else, a hook changes what it computes with
        and not has_hooks(module)
        and module.kernel_size == (3, 3)
        and module.stride == module.dilation == (1, 1)
        and module.padding in EDGES
        and module.padding_mode == "zeros"
        and module.groups == 1
    )


def follows(activation: nn.Module | None) -> bool:
    """Whether the kernels compute such an activation along with the convolution before it."""
    return activation is not None and (activation_slope(activation) is not None or bool(_curve_of(activation)))


def aligned(convolution: nn.Conv2d) -> bool:
    """Whether its channels, in and out, are what the kernels take, so that they may be some of a wider picture's."""
    return convolution.in_channels % _LANES == convolution.out_channels % _LANES == 0


def multiplies_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16s itself; the kernels must be there."""
    return loaded().knows_bfloat16


class Kernels:
    """The library's functions, for tensors."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.scratch_bytes.restype = ctypes.c_int64
        library.convolve.argtypes, library.convolve.restype = (ctypes.c_void_p,) * 6, None
        self._widest: int = library.widest()
        self.knows_bfloat16 = bool(library.knows_bfloat16())

    def pack(
        self, convolution: nn.Conv2d, activation: nn.Module | None = None, products: torch.dtype = torch.float32
    ) -> Packed:
        """`convolution`, one that `suits`, with an `activation` that `follows` it; `products` is what is multiplied,
        float32 or bfloat16."""
        outputs, channels = convolution.weight.shape[:2]
        weights, more, missing = convolution.weight.detach(), -outputs % _LANES, -channels % _LANES
        if more or missing:
            weights = F.pad(weights, (0, 0, 0, 0, 0, missing, 0, more))
        weights = _transformed(weights, self._lanes(*weights.shape[1::-1]), products)
        bias = torch.zeros(outputs) if convolution.bias is None else convolution.bias.detach().float()
        bias, slope, curve = F.pad(bias, (0, more)), None, _curve_of(activation)
        if activation is not None and not curve:
            slope = torch.as_tensor(activation_slope(activation), dtype=torch.float32).detach().expand(outputs)
            slope = F.pad(slope, (0, more))
        return Packed(weights, bias, slope, curve)

    def convolve(self, x: Tensor, packed: Packed, y: Tensor, scale: float = 1.0, added: Tensor | None = None) -> None:
        """Write into `y` [N, h, w, O] the convolution of `x` [N, h, w, C], both float32 on the CPU, channels dense.

        Where `x` is two rows and two pixels larger than `y` there is nothing around it, else there are zeros. With
        `added` [N, h, w, O] the result is scale * convolution + added, or what the curve of a gate makes of it. `x` and
        `y` may be channels of one buffer, if they are not the same ones. No more threads than torch may use. Beats
        within, where it takes long. Raises `ValueError` for anything else, and whatever a listener raises.
        """
        edge = _checked_edge(x, packed, y, added)
        (count, x_height, x_width, channels), (_, height, width, outputs) = x.shape, y.shape
        lanes, work = self._lanes(channels, outputs), count * height * width * channels * outputs * 36 // 16
        threads, pieces = torch.get_num_threads() if work >= _LEAST_WORK else 1, _pieces(work)
        sizes = ConvolutionSizes(
            *(count, x_height, x_width, edge, height, width, channels, outputs),
            *(lanes, _RUN, threads, 0, pieces, packed.weights.dtype == torch.bfloat16),
        )
        slope = None if packed.slope is None else packed.slope.data_ptr()
        ending = Ending(packed.bias.data_ptr(), slope, packed.curve, scale)
        if added is not None:
            ending.added = _picture(added)
        scratch = torch.empty(self._library.scratch_bytes(ctypes.byref(sizes)), dtype=torch.uint8)
        for piece in range(pieces):
            if piece:
                beat(0)
            sizes.piece = piece
            self._library.convolve(
                ctypes.byref(_picture(x)),
                packed.weights.data_ptr(),
                ctypes.byref(ending),
                ctypes.byref(_picture(y)),
                ctypes.byref(sizes),
                scratch.data_ptr(),
            )

    def _lanes(self, channels: int, outputs: int) -> int:
        return _LANES if channels % self._widest or outputs % self._widest else self._widest


@functools.cache
def loaded() -> Kernels:
    """The kernels that `prepare` has found."""
    return Kernels(loaded_library("winograd"))


def _transformed(weight: Tensor, lanes: int, products: torch.dtype) -> Tensor:
    """[36, C * O] of [O, C, 3, 3], in the kernel's order. G w G^T for each 3x3 w, as one product with the 36 rows of
    the Kronecker product of G and itself."""
    transform = np.kron(_WEIGHTS, _WEIGHTS).astype(np.float64)
    found = torch.empty(len(transform), weight.shape[0] * weight.shape[1], dtype=products, device="cpu")
    for start, piece in pieces_in_blocks(weight.flatten(2).permute(2, 1, 0), lanes, products, _LARGER):
        # not torch's product, which has all threads for the least of them
        found[:, start : start + piece.shape[1]] = torch.from_numpy(transform @ piece.double().numpy() / _TIMES)
    return found


def channels_last(x: Tensor) -> Tensor:
    """[N, h, w, C] of x [N, C, h, w], C rounded up to a multiple of 8; no copy where x is that in memory."""
    x, missing = x.permute(0, 2, 3, 1), -x.shape[1] % _LANES
    if not missing:
        return x.contiguous()
    filled = x.new_zeros(*x.shape[:3], x.shape[3] + missing)
    filled[..., : x.shape[3]] = x
    return filled


def _pieces(work: int) -> int:
    """In how many pieces to compute so many multiplications: whoever listens may want to end it."""
    return -(-work // _MOST_WORK) if current_listener() else 1


def _checked_edge(x: Tensor, packed: Packed, y: Tensor, added: Tensor | None) -> int:
    """The zeros around `x`, 0 or 1. Raises `ValueError` for what the kernels, which get bare pointers, cannot take."""
    if x.ndim != 4 or y.ndim != 4:
        raise ValueError(f"x and y must be [N, h, w, C], not {tuple(x.shape)} and {tuple(y.shape)}")
    if not y.numel():
        raise ValueError(f"there is nothing to compute of a picture of {tuple(x.shape)}")
    count, x_height, x_width, channels = x.shape
    outputs, lost = y.shape[3], 2 if x_height > y.shape[1] else 0
    if channels % _LANES or outputs % _LANES:
        raise ValueError(f"{channels} to {outputs} channels are no multiples of {_LANES}")
    operands = {
        "x": (x, x.shape),
        "y": (y, (count, x_height - lost, x_width - lost, outputs)),
        "weights": (packed.weights, (6 * 6, channels * outputs)),
        "bias": (packed.bias, (outputs,)),
        **({} if packed.slope is None else {"slope": (packed.slope, (outputs,))}),
        **({} if added is None else {"added": (added, y.shape)}),
    }
    products = torch.bfloat16 if packed.weights.dtype == torch.bfloat16 else torch.float32
    for name, (tensor, shape) in operands.items():
        check_operand(name, tensor, shape, products if name == "weights" else torch.float32, _CPU)
        check_dense(name, tensor)
    check_writable("y", y)
    if x.data_ptr() == y.data_ptr():
        raise ValueError("x and y are the same values: a convolution reads what it would have written over")
    if not packed.weights.is_contiguous():
        raise ValueError(f"weights are not dense: their strides are {packed.weights.stride()}")
    return 1 - lost // 2


def _curve_of(activation: nn.Module | None) -> Curve:
    if type(activation) is nn.SiLU and not has_hooks(activation):
        return Curve.SILU
    return Curve.GELU if is_gelu(activation) else Curve.STRAIGHT


def _picture(x: Tensor) -> Picture:
    return Picture(x.data_ptr(), *x.stride()[:3])


def _flaw(library: ctypes.CDLL) -> str | None:
    """What is wrong with the kernels just loaded, if anything is: an odd size, with everything that can follow."""
    kernels, generator = Kernels(library), torch.Generator().manual_seed(0)
    convolution = cast(nn.Conv2d, skip_init(nn.Conv2d, 32, 32, 3, padding=1))  # draws no random numbers
    activation = nn.PReLU(32)
    for parameter in (*convolution.parameters(), *activation.parameters()):
        parameter.data.copy_(torch.rand(parameter.shape, generator=generator) - 0.5)
    x = torch.rand(2, 32, 9, 14, generator=generator)
    seen, y = x.permute(0, 2, 3, 1).contiguous(), torch.empty(2, 9, 14, 32)
    with torch.no_grad():
        plain = convolution(x)
        truths = {
            Curve.STRAIGHT: activation(plain) * 0.2 + x,
            Curve.SILU: F.silu(plain) * 0.2 + x,
            Curve.GELU: F.gelu(plain) * 0.2 + x,
            Curve.GATE: (plain + x) * (plain.sigmoid() - 0.5),
        }
    for products, limits in _LIMITS.items():
        packed = kernels.pack(convolution, activation, products)
        for curve, truth in truths.items():
            this = packed._replace(curve=curve, slope=None if curve else packed.slope)
            kernels.convolve(seen, this, y, 0.2, seen)
            if flaw := compare(y, truth.permute(0, 2, 3, 1), limits):
                return flaw
    return None
