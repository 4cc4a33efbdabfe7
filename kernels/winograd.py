"""3x3 convolutions on a CPU by Winograd's method, twice as fast as oneDNN's: csrc/winograd.cpp, as modules.

F(4x4, 3x3) of Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2015 (arXiv 1509.09308): a quarter of
the multiplications. In float32 the results differ from the plain convolution's by some 1e-6 of the largest.

What is multiplied may be rounded to bfloat16: a processor that knows it multiplies twice as many at once. All else
stays float32, so that less is lost than where pictures are bfloat16 between the layers: the bundled model's x2 is 71 dB
from fp32, not 57.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import math
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeGuard, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from ..api.upstream import has_hooks
from .build import load_library
from .convolution import activation_slope
from .heartbeat import beat, current_listener
from .interface import ConvolutionSizes, Ending, Picture
from .numerics import Limits, compare
from .operands import check_dense, check_operand, check_writable
from .packing import in_blocks

# The transform of the weights, G in the paper, for points 0, +-3/4, +-3/2 and infinity, times 243: of whole numbers, so
# that sums of weights are exact in float64 and come out the same in whatever order, by however many threads, a matrix
# product adds them up.
_WEIGHTS = ((192, 0, 0), (-128, -96, -72), (-128, 96, -72), (32, 48, 72), (32, -48, 72), (0, 0, 243))
_TIMES = 243 * 243
_COLUMNS = 1 << 14  # of weights that are transformed at once, 5 MB of float64
# What may be around the picture: zeros, so that the output is as large, or nothing.
_EDGES = {(1, 1): 1, "same": 1, (0, 0): 0, "valid": 0}
_LANES = 8  # the kernels' channels come in multiples of it; others get company of zeros
_RUN = 12  # tiles that a thread takes at once: with 64 channels some 220 KB, which a core's cache holds
# Multiplications that threads are worth, about a tenth of a millisecond. All threads or one: OpenMP ends and makes anew
# those by which two teams in turn differ.
_LEAST_WORK = 1 << 23
_MOST_WORK = 1 << 30  # at once, where somebody listens: a tenth of a second, beside other work half of one
_PICTURE = 4  # channels that a picture has, at most
_CPU = torch.device("cpu")
_LIMITS = {torch.float32: Limits(2e-4), torch.bfloat16: Limits(2e-1)}  # the method's rounding is a fortieth of it


class Packed(NamedTuple):
    """A convolution made ready, C and O rounded up to multiples of 8: `weights` [36, C * O] in the kernel's order, of
    the type that is multiplied in, float32 or bfloat16, `bias` [O], and the `slope` [O] by which negative results are
    multiplied; None: they stay."""

    weights: Tensor
    bias: Tensor
    slope: Tensor | None


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
        and module.padding in _EDGES
        and module.padding_mode == "zeros"
        and module.groups == 1
    )


def aligned(convolution: nn.Conv2d) -> bool:
    """Whether its channels, in and out, are what the kernels take, so that they may be some of a wider picture's."""
    return convolution.in_channels % _LANES == convolution.out_channels % _LANES == 0


def multiplies_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16s itself; the kernels must be there."""
    return _kernels().knows_bfloat16


class _Workspace(threading.local):
    shared = False
    memory: Tensor | None = None


_WORKSPACE = _Workspace()


@contextmanager
def shared_workspace() -> Iterator[None]:
    """Within it all dense blocks of this thread take the same memory for what they need for a moment, one after the
    other; it is given back at the end.

    Large tensors are new to the processor every time they are asked for, and mapping their pages costs a fifth of the
    time.
    """
    before = _WORKSPACE.shared, _WORKSPACE.memory
    _WORKSPACE.shared, _WORKSPACE.memory = True, None
    try:
        yield
    finally:
        _WORKSPACE.shared, _WORKSPACE.memory = before


def _workspace(*shape: int) -> Tensor:
    """float32 of `shape`, of any content, the caller's until the next one is asked for."""
    if not _WORKSPACE.shared:
        return torch.empty(shape)
    count, memory = math.prod(shape), _WORKSPACE.memory
    if memory is None or len(memory) < count:
        _WORKSPACE.memory = memory = None  # before the larger one is there
        _WORKSPACE.memory = memory = torch.empty(count)
    return memory[:count].view(shape)


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
        """`convolution`, one that `suits`, with what follows it, one that has an `activation_slope`; `products` is what
        is multiplied, float32 or bfloat16."""
        outputs, channels = convolution.weight.shape[:2]
        weights, more, missing = convolution.weight.detach(), -outputs % _LANES, -channels % _LANES
        if more or missing:
            weights = F.pad(weights, (0, 0, 0, 0, 0, missing, 0, more))
        weights = _transformed(weights, self._lanes(*weights.shape[1::-1]), products)
        bias = torch.zeros(outputs) if convolution.bias is None else convolution.bias.detach().float()
        bias, slope = F.pad(bias, (0, more)), None
        if activation is not None:
            slope = torch.as_tensor(activation_slope(activation), dtype=torch.float32).detach().expand(outputs)
            slope = F.pad(slope, (0, more))
        return Packed(weights, bias, slope)

    def convolve(self, x: Tensor, packed: Packed, y: Tensor, scale: float = 1.0, added: Tensor | None = None) -> None:
        """Write into `y` [N, h, w, O] the convolution of `x` [N, h, w, C], both float32 on the CPU, channels dense.

        Where `x` is two rows and two pixels larger than `y` there is nothing around it, else there are zeros. With
        `added` [N, h, w, O] the result is scale * convolution + added. `x` and `y` may be channels of one buffer,
        if they are not the same ones. No more threads than torch may use. Beats within, where it takes long. Raises
        `ValueError` for anything else, and whatever a listener raises.
        """
        edge = _checked_edge(x, packed, y, added)
        (count, x_height, x_width, channels), (_, height, width, outputs) = x.shape, y.shape
        lanes, work = self._lanes(channels, outputs), count * height * width * channels * outputs * 36 // 16
        threads, pieces = torch.get_num_threads() if work >= _LEAST_WORK else 1, _pieces(work)
        sizes = ConvolutionSizes(
            *(count, x_height, x_width, edge, height, width, channels, outputs),
            *(lanes, _RUN, threads, 0, pieces, packed.weights.dtype == torch.bfloat16),
        )
        ending = Ending(packed.bias.data_ptr(), None if packed.slope is None else packed.slope.data_ptr(), scale)
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


class WinogradConvolution(nn.Module):
    """A convolution with the activation that follows it: x [N, C, h, w] float32 -> [N, O, h, w], channels last.

    Two pixels less each way where the convolution has no padding. One that makes a picture multiplies float32 whatever
    `products` are: no later layer would smooth what rounding does there (HAT: 65 dB from fp32 instead of 53).
    """

    weights: Tensor
    bias: Tensor
    slope: Tensor | None

    def __init__(
        self, convolution: nn.Conv2d, activation: nn.Module | None = None, products: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        if convolution.out_channels <= _PICTURE:
            products = torch.float32
        packed = _kernels().pack(convolution, activation, products)
        for name, value in packed._asdict().items():
            self.register_buffer(name, value)
        self.outputs = convolution.out_channels
        self.lost = 2 - 2 * _EDGES[convolution.padding]

    @property
    def packed(self) -> Packed:
        """What the kernels take."""
        return Packed(self.weights, self.bias, self.slope)

    def forward(self, x: Tensor) -> Tensor:
        x, packed = _channels_last(x), self.packed
        count, height, width, _ = x.shape
        y = x.new_empty(count, height - self.lost, width - self.lost, len(packed.bias))
        _kernels().convolve(x, packed, y)
        return y.permute(0, 3, 1, 2)[:, : self.outputs]


class WinogradChain(nn.Module):
    """Convolutions in a row, each of the last one's result: x [N, C, h, w] float32 -> [N, O, h, w], channels last.

    What lies between is written to and fro between two buffers, which are gone by the time that what comes after takes
    memory.
    """

    def __init__(self, steps: list[WinogradConvolution]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self._outputs = steps[-1].outputs

    def forward(self, x: Tensor) -> Tensor:
        x = _channels_last(x)
        *before, last = _packed(self.steps)
        pixels = x.shape[:3]
        buffers = [x.new_empty(pixels.numel() * max(len(step.bias) for step in before)) for _ in range(2)]
        for packed, buffer in zip(before, itertools.cycle(buffers), strict=False):
            outputs = len(packed.bias)
            y = buffer[: pixels.numel() * outputs].view(*pixels, outputs)
            _kernels().convolve(x, packed, y)
            beat()
            x = y
        y = x.new_empty(*pixels, len(last.bias))
        _kernels().convolve(x, last, y)
        beat()
        return y.permute(0, 3, 1, 2)[:, : self._outputs]


class WinogradDenseBlock(nn.Module):
    """The dense block of ESRGAN's RRDB (Wang et al., 2018, arXiv 1809.00219): x [N, C, h, w] float32 -> the same.

    Five convolutions, each of all that came before: here they read the first channels of one buffer and write the next
    ones, so that nothing is concatenated. The last is scaled and added to x.
    """

    def __init__(
        self,
        convolutions: list[tuple[nn.Conv2d, nn.Module | None]],
        scale: float,
        products: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self._scale = scale
        self.steps = nn.ModuleList(WinogradConvolution(*pair, products) for pair in convolutions)
        self._width = convolutions[-1][0].in_channels

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        known = x.shape[3]
        buffer = _workspace(*x.shape[:3], self._width)
        buffer[..., :known] = x
        *grow, last = _packed(self.steps)
        for packed in grow:
            more = len(packed.bias)
            _kernels().convolve(buffer[..., :known], packed, buffer[..., known : known + more])
            beat()
            known += more
        y = x.new_empty(*x.shape[:3], len(last.bias))
        _kernels().convolve(buffer, last, y, self._scale, buffer[..., : y.shape[3]])
        beat()
        return y.permute(0, 3, 1, 2)


def transformed_bytes(module: nn.Module) -> int:
    """Bytes of the weights in `module` that are kept as the kernels take them: four times those of the convolutions,
    36 numbers for 9 (and channels in multiples of 8)."""
    return sum(part.weights.nbytes for part in module.modules() if isinstance(part, WinogradConvolution))


def _packed(steps: nn.ModuleList) -> list[Packed]:
    """What the kernels take of each of these `WinogradConvolution`s."""
    return [step.packed for step in cast("Iterable[WinogradConvolution]", steps)]


@functools.cache
def _kernels() -> Kernels:
    """The kernels that `prepare` has found."""
    library = load_library("winograd", Path(), _flaw)
    assert library is not None
    return Kernels(library)


def _transformed(weight: Tensor, lanes: int, products: torch.dtype) -> Tensor:
    """[36, C * O] of [O, C, 3, 3], in the kernel's order. G w G^T for each 3x3 w, as one product with the 36 rows of
    the Kronecker product of G and itself."""
    transform = torch.tensor(_WEIGHTS, dtype=torch.float64, device="cpu")
    transform = torch.kron(transform, transform)
    ordered = in_blocks(weight.flatten(2).permute(2, 1, 0), lanes, products)
    pieces = [(transform @ piece.double()).div_(_TIMES).to(products) for piece in ordered.split(_COLUMNS, dim=1)]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)


def _channels_last(x: Tensor) -> Tensor:
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
        truth = (activation(convolution(x)) * 0.2 + x).permute(0, 2, 3, 1)
    for products, limits in _LIMITS.items():
        kernels.convolve(seen, kernels.pack(convolution, activation, products), y, 0.2, seen)
        if flaw := compare(y, truth, limits):
            return flaw
    return None
