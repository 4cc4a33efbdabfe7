"""What rewritten layers and CUDA graphs gain, layer by layer: `python -m bench.kernels [--json FILE]`.

Tables, each against the plain modules of the same run, in turn: the convolutions of a dense block and of Compact, by
torch and by each of Triton's block sizes; dense blocks as a whole; Compact as a whole; attention within windows;
forwards eager and as CUDA graphs. "off" is the largest difference from the plain result, as a share of its root mean
square. On a CPU the sizes are small and only what runs there is shown: a rehearsal.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from spandrel.architectures.Compact import Compact
from spandrel.architectures.ESRGAN import ESRGAN
from torch import Tensor, nn

from cudaspeed.api.errors import first_line
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.kernels import window_attention
from cudaspeed.kernels.attention_fusion import attend
from cudaspeed.kernels.autotuned_convolution import fastest_convolution
from cudaspeed.kernels.convolution import Convolution, plain_convolution
from cudaspeed.kernels.dense_block import dense_groups, rewrite_dense_groups
from cudaspeed.kernels.fused_convolution import fuse_chains
from cudaspeed.models.cuda_graphs import CudaRecorder, replay
from cudaspeed.models.execution import DTYPES

from .harness import Column, Record, Results, Table, command_line, in_turn

_GROWTH = 32
_LAYERS = [(64, 32), (96, 32), (128, 32), (160, 32), (192, 64), (64, 64)]  # a dense block's, then Compact's
_ATTENTION = [("SwinIR-M", 6, 64, 30), ("HAT", 6, 256, 24), ("DAT light", 3, 256, 10)]  # heads, window, channels
_GRAPH_SIDES = (64, 128, 256)

_TABLE = Table(
    "way",
    52,
    [
        Column("ms", 9, lambda row: f"{1000 * row['seconds']:.3f}"),
        Column("gain", 7, lambda row: f"{row['gain']:.2f}x"),
        Column("off", 9, lambda row: f"{row['off']:.1e}"),
        Column("TFLOP/s", 8, lambda row: f"{row['flops'] / row['seconds'] / 1e12:.2f}" if row["flops"] else "-"),
    ],
)


class Bench:
    """Compares ways to do one thing; the first is the plain one."""

    def __init__(self, device: torch.device, results: Results, rounds: int) -> None:
        self._device, self._results, self._rounds = device, results, rounds

    def compare(self, title: str, works: Mapping[str, Callable[[], Tensor]], flops: float = 0.0) -> None:
        """Print a row for each, and keep it. A way that fails says why."""
        print(f"\n{title}")
        _TABLE.head()
        outputs: dict[str, Tensor] = {}
        for name, work in works.items():
            try:
                outputs[name] = work().float().clone()
                work()  # the first may have compiled or measured
            except Exception as error:  # compilers fail in all sorts of ways, and the next way is to be seen
                self._keep(title, name, {"failure": first_line(error)})
        times = in_turn({name: works[name] for name in outputs}, self._rounds, self._device)
        truth = next(iter(outputs.values()))
        plain = min(times[next(iter(times))])
        for name, spent in times.items():
            off = float((outputs[name] - truth).abs().max() / truth.square().mean().sqrt())
            row = {"seconds": min(spent), "gain": plain / min(spent), "off": off, "flops": flops, "all": spent}
            self._keep(title, name, row)

    def _keep(self, title: str, name: str, row: Record) -> None:
        _TABLE.row(name, row)
        self._results.keep({"table": title, "way": name, **row})


def convolutions(layer: tuple[int, int], x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Each way to go from `layer`'s first to its second number of channels within a page, leaky ReLU included."""
    channels, out_channels = layer
    generator = torch.Generator(x.device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=generator, device=x.device, dtype=x.dtype)
        return values.contiguous(memory_format=torch.channels_last)

    source, target = random(1, 192, *x.shape[2:])[:, :channels], random(1, 192, *x.shape[2:])[:, :out_channels]
    weight, bias = random(out_channels, channels, 3, 3) / 10, torch.zeros(out_channels, device=x.device, dtype=x.dtype)

    def through(convolve: Convolution) -> Callable[[], Tensor]:
        def work() -> Tensor:
            convolve(source, target, weight, bias, 0.2)
            return target

        return work

    sizes = [64, *[_GROWTH] * ((channels - 64) // _GROWTH)]
    parts = [part.contiguous(memory_format=torch.channels_last) for part in source.split(sizes, 1)]

    def plain() -> Tensor:
        together = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        return F.leaky_relu_(F.conv2d(together, weight, bias, padding=1), 0.2)

    ways = {
        "torch, of parts that are concatenated": plain,
        "torch, out of and into a page": through(plain_convolution),
    }
    if x.is_cuda:
        from cudaspeed.kernels.triton_convolution import TritonConvolution, suitable_blocks

        ways |= {f"Triton {some}": through(TritonConvolution(some)) for some in suitable_blocks(*layer)}
    return ways


def dense(x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Two RRDBs of 64 features, each way."""
    torch.manual_seed(0)
    groups = [place.module for place in dense_groups(ESRGAN(in_nc=3, out_nc=3, num_filters=64, num_blocks=2))]
    plain = nn.Sequential(*groups).to(x.device, x.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    ways: dict[str, Callable[[], Tensor]] = {
        "plain": lambda: plain(x),
        "summed up, by torch": summed(plain, x),
    }
    for name, convolve in (("torch", plain_convolution), ("the fastest", fastest_convolution)):
        ours = copy.deepcopy(plain)
        rewrite_dense_groups(ours, convolve)
        ways[f"one page, by {name}"] = lambda ours=ours: ours(x)
    return ways


def summed(plain: nn.Sequential, x: Tensor) -> Callable[[], Tensor]:
    """An idea that is only measured here: every slab of channels is convolved once, for all that come after it, and the
    results are summed up. More columns for the matrix units, no concatenation, more sums, one rounding for each."""
    blocks = []
    for group in plain:
        for block in (group.RDB1, group.RDB2, group.RDB3):
            layers = [getattr(block, f"conv{number}")[0] for number in range(1, 6)]
            starts = [0, *(layer.in_channels for layer in layers)]
            weights = [
                torch.cat([layer.weight[:, start:end] for layer in layers[number:]])
                for number, (start, end) in enumerate(pairwise(starts))
            ]
            bias = torch.cat([layer.bias for layer in layers])
            blocks.append(([weight.contiguous(memory_format=torch.channels_last) for weight in weights], bias))

    def work() -> Tensor:
        out = outer = x
        for number, (weights, bias) in enumerate(blocks):
            outer = out if number % 3 == 0 else outer
            sums = F.conv2d(out, weights[0], bias, padding=1)
            for weight in weights[1:]:
                slab = F.leaky_relu(sums[:, :_GROWTH], 0.2)
                sums = F.conv2d(slab, weight, padding=1).add_(sums[:, _GROWTH:])
            out = torch.add(out, sums, alpha=0.2)
            out = torch.add(outer, out, alpha=0.2) if number % 3 == 2 else out
        return out

    return work


def chain(x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Compact x4 of 64 features and 16 convolutions, each way."""
    plain = _compact(x)
    ways: dict[str, Callable[[], Tensor]] = {"plain": lambda: plain(x)}
    for name, convolve in (("torch", plain_convolution), ("the fastest", fastest_convolution)):
        ours = copy.deepcopy(plain)
        fuse_chains(ours, convolve)
        ways[f"fused, by {name}"] = lambda ours=ours: ours(x)
    return ways


def attention(windows: int, heads: int, length: int, channels: int, like: Tensor) -> dict[str, Callable[[], Tensor]]:
    """`windows` of `length` pixels, in the type and on the device of `like`."""
    given = torch.randn(windows, length, 3, heads, channels, device=like.device).to(like.dtype)
    query, keys, values = given.permute(2, 0, 3, 1, 4)
    bias = torch.randn(heads, length, length, device=like.device).to(like.dtype)

    def plain() -> Tensor:
        return (query @ keys.mT + bias).softmax(-1) @ values

    def torchs() -> Tensor:
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=bias, scale=1.0)

    return {"one by one": plain, "torch's": torchs, "as models get it": lambda: attend(query, keys, values, [bias])}


def graphs(network: nn.Module, x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """A forward launch by launch, and as a CUDA graph with its copies in and out."""

    def eager(tile: Tensor) -> Tensor:
        return network(tile.to(next(network.parameters()).dtype, memory_format=torch.channels_last))

    tile = x.float()
    recording = cache(lambda: CudaRecorder(x.device).record(eager, tile))  # at its turn: it may fail
    return {"eager": lambda: eager(tile), "CUDA graph": lambda: replay(recording(), tile)}


def _compact(x: Tensor) -> nn.Module:
    torch.manual_seed(0)
    return Compact(num_feat=64, num_conv=16, upscale=4).eval().to(x.device, x.dtype, memory_format=torch.channels_last)


def _esrgan(x: Tensor) -> nn.Module:
    torch.manual_seed(0)
    network = ESRGAN(in_nc=3, out_nc=3, num_filters=64, num_blocks=23).eval()
    return network.to(x.device, x.dtype, memory_format=torch.channels_last)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--side", type=int, default=0, help="pixels; default: 512 on CUDA, else 48")
    parser.add_argument("--precision", choices=list(DTYPES), help="default: fp16 on CUDA, else fp32")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()

    device = StandaloneContext(args.device).device
    on_cuda = device.type == "cuda"
    side, precision = args.side or (512 if on_cuda else 48), args.precision or ("fp16" if on_cuda else "fp32")
    bench = Bench(device, Results(device, args.json), args.rounds)

    def picture(channels: int, side: int = side) -> Tensor:
        x = torch.rand(1, channels, side, side, generator=torch.Generator().manual_seed(0))
        return x.to(device, DTYPES[precision]).contiguous(memory_format=torch.channels_last)

    size = f"{side}x{side}, {precision}"
    with torch.inference_mode():
        for layer in _LAYERS:
            flops = 2 * 9 * layer[0] * layer[1] * side * side
            bench.compare(
                f"convolution {layer[0]} to {layer[1]} channels, {size}", convolutions(layer, picture(1)), flops
            )
        flops = 6 * 2 * 9 * sum(channels * out for channels, out in _LAYERS[:5]) * side * side
        bench.compare(f"2 RRDBs of 64 features, {size}", dense(picture(64)), flops)
        bench.compare(f"Compact x4 of 64 features, 16 convolutions, {size}", chain(picture(3)))
        window_attention.prepare(StandaloneContext(args.device).cache_folder)
        for name, heads, window, channels in _ATTENTION:
            works = attention(side * side // window, heads, window, channels, picture(1))
            bench.compare(f"attention of {name}, windows of {window}, {heads} heads of {channels}, {size}", works)
        if not on_cuda:
            print("\nCUDA graphs: no CUDA device")
            return
        for side in _GRAPH_SIDES:
            for name, build in (("Compact x4", _compact), ("ESRGAN x4", _esrgan)):
                x = picture(3, side)
                bench.compare(f"{name}, {side}x{side}, {precision}", graphs(build(x), x))


if __name__ == "__main__":
    main()
