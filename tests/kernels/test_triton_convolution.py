"""The Triton kernels: their arithmetic, by Triton's interpreter on the CPU, and that compilers for GPUs take them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from spandrel.architectures.ESRGAN import ESRGAN

from cudaspeed.kernels.autotuned_convolution import Candidate, Convolutions, Layer, choose_convolution
from cudaspeed.kernels.convolution import Residual
from cudaspeed.kernels.dense_block import rewrite_dense_groups

triton_language = pytest.importorskip(
    "triton.language", reason="this torch brings no Triton: it was built without CUDA"
)
if not hasattr(triton_language, "gather"):
    pytest.skip("this Triton is too old for the kernel: convolutions go the plain way", allow_module_level=True)

ROOT = Path(__file__).absolute().parent.parent.parent

# ([pictures, height, width], channels); and what follows: slope (None: one per channel), residuals, bias.
SHAPES = [((2, 5, 7), (96, 32)), ((1, 3, 40), (160, 16)), ((1, 4, 6), (192, 64)), ((1, 6, 6), (48, 12))]
LINES = [((2, 1, 1), (64, 32)), ((1, 13, 1), (64, 32)), ((1, 1, 13), (64, 32))]
FOLLOWING = [(1.0, 0, False), (0.2, 0, True), (None, 0, True), (1.0, 1, True), (1.0, 2, True), (0.2, 2, False)]
CASES = [
    *product([((1, 5, 9), (64, 32))], FOLLOWING, ["float16"], [False, True]),
    *product([((1, 5, 9), (64, 32))], [(None, 2, True)], ["float32"], [False, True]),
    *product([*SHAPES, *LINES], [(0.2, 2, True)], ["float16"], [False, True]),
]

# In a process of its own: the interpreter must be chosen before Triton is imported. Without the package's __init__.py,
# which imports spandrel: seconds.
SCRIPT = """
import json, sys, types
import torch
from triton.runtime import interpreter

def with_index(tensor, *rest, patch=interpreter._patch_lang_tensor):  # the interpreter of Triton 3.6 wants numpy < 2.4
    patch(tensor, *rest)
    to_int = lambda value: int(value.handle.data.item())
    rest[0].set_attr(tensor, "__index__", to_int) if rest else setattr(tensor, "__index__", to_int)

interpreter._patch_lang_tensor = with_index

from cudaspeed.kernels.convolution import Residual, plain_convolution
from cudaspeed.kernels.triton_convolution import Blocks, TritonConvolution

def page(*shape):
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)

def run(shape, slope, residuals, bias, dtype, by_rows):
    torch.manual_seed(0)
    (count, height, width), (channels, out) = shape
    source, into = page(count, 200, height, width), page(count, 100, height, width)
    weight, bias = page(out, channels, 3, 3) / 20, torch.randn(out) if bias else None
    slope = torch.linspace(-0.5, 1.5, out) if slope is None else slope
    other = page(count, out, height, width)
    def convolve(how, dtype):
        target, near = into.to(dtype), source.to(dtype)
        rest = [Residual(0.2, near[:, :out]), Residual(0.3, other.to(dtype))][:residuals]
        parameters = weight.to(dtype), None if bias is None else bias.to(dtype)
        how(near[:, 8 : 8 + channels], target[:, 32 : 32 + out], *parameters, slope, rest)
        return target.float()
    blocks = Blocks(32, 16 if out < 32 else 32, 16 if channels % 32 else 32, 4, 2, by_rows)
    truth = convolve(plain_convolution, torch.float32)
    return float((convolve(TritonConvolution(blocks), getattr(torch, dtype)) - truth).abs().max())

with torch.inference_mode():
    print(json.dumps([run(shape, *after, dtype, rows) for shape, after, dtype, rows in json.load(sys.stdin)]))
"""


@pytest.fixture(scope="module")
def errors() -> list[float]:
    """The largest difference of each case from torch's convolution in fp32, over all the target's channels."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(ROOT)]
    done = subprocess.run(command, input=json.dumps(CASES), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[" ".join(map(str, case)) for case in CASES])
def test_interpreted_kernels_give_torchs_result_and_write_nothing_else(number: int, errors: list[float]) -> None:
    assert errors[number] <= {"float32": 1e-4, "float16": 2e-2}[CASES[number][2]]


def wrong_operands() -> dict[str, tuple[str, dict[str, object]]]:
    """What the error says, and what is given instead of the right operands."""
    half, meta = torch.zeros(1, 32, 8, 8, dtype=torch.float16), torch.zeros(1, 32, 8, 8, device="meta")
    pixels, narrow = torch.channels_last, Residual(1.0, torch.zeros(1, 16, 8, 4))
    return {
        "a source of another type": ("the weight is of", {"source": half.contiguous(memory_format=pixels)}),
        "a source in planes": ("not in the order of pixels", {"source": torch.zeros(1, 32, 8, 8)}),
        "a target of another size": ("the target has shape", {"target": torch.zeros(1, 16, 8, 9)}),
        "a target with other channels": ("the target has shape", {"target": torch.zeros(1, 8, 8, 8)}),
        "a target elsewhere": ("the target lies on meta", {"target": meta[:, :16]}),
        "too short a bias": ("the bias has shape", {"bias": torch.zeros(8)}),
        "a bias with gaps": ("the bias's last dimension", {"bias": torch.zeros(32)[::2]}),
        "one slope for all": ("the slope has shape", {"slope": torch.zeros(1)}),
        "a residual of another size": ("a residual has shape", {"residuals": [narrow]}),
    }


@pytest.mark.parametrize("which", wrong_operands())
def test_operands_whose_memory_it_would_misread_are_refused(which: str) -> None:
    """Before anything is launched, so that no GPU is needed to see it."""
    from cudaspeed.kernels.triton_convolution import Blocks, TritonConvolution

    said, wrong = wrong_operands()[which]
    right = {
        "source": torch.zeros(1, 32, 8, 8).contiguous(memory_format=torch.channels_last),
        "target": torch.zeros(1, 16, 8, 8).contiguous(memory_format=torch.channels_last),
        "weight": torch.zeros(16, 32, 3, 3).contiguous(memory_format=torch.channels_last),
        "bias": torch.zeros(16),
        "slope": 0.2,
        "residuals": (),
    }
    with pytest.raises(ValueError, match=said):
        TritonConvolution(Blocks(32, 16, 32, 4, 2, by_rows=False))(**{**right, **wrong})


@pytest.mark.parametrize(
    ("architecture", "out_channels", "dtype", "instruction"),
    [(90, 32, "fp16", "wgmma.mma_async"), (80, 64, "bf16", "mma.sync")],
    ids=["Hopper", "Ampere"],
)
def test_compilers_take_every_block_size_and_use_tensor_cores(
    architecture: int, out_channels: int, dtype: str, instruction: str, tmp_path, monkeypatch
) -> None:
    """No GPU is needed to compile for one; Triton brings the blender along."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from cudaspeed.kernels import triton_convolution as room

    for blocks in room.suitable_blocks(64, out_channels):
        kernel = room._convolve_rows if blocks.by_rows else room._convolve
        constants = {
            "has_bias": True,
            "has_slopes": False,
            "residual_count": 2,
            "block_pixels": blocks.pixels,
            "block_out": blocks.out_channels,
            "block_channels": blocks.channels,
        }
        types = dict.fromkeys(kernel.arg_names, "i32") | dict.fromkeys(constants, "constexpr")
        tensors = ("source", "target", "weight", "bias", "first", "second")
        types |= dict.fromkeys(tensors, f"*{dtype}")
        types |= dict.fromkeys(("slope", "first_scale", "second_scale"), "fp32")
        sixteen = [
            *tensors,
            *(name for name in types if name.endswith(("pitch", "channels")) and name not in constants),
        ]
        divisible = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in sixteen}
        compiled = triton.compile(
            ASTSource(kernel, types, constants, divisible),
            target=GPUTarget("cuda", architecture, 32),
            options={"num_warps": blocks.warps, "num_stages": blocks.stages},
        )
        assert instruction in compiled.asm["ptx"]
        assert "cp.async" in compiled.asm["ptx"], "reading goes on while the last values are multiplied"
        assert compiled.metadata.shared <= (227 if architecture == 90 else 99) << 10, "what a block may share"


# --- with a CUDA device ----------------------------------------------------------------------------------------------

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DTYPES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)


@cuda
@DTYPES
@pytest.mark.parametrize(("channels", "out_channels"), [(64, 32), (96, 32), (192, 64), (64, 48)])
def test_every_block_size_is_right_on_the_device(channels: int, out_channels: int, dtype: torch.dtype) -> None:
    from cudaspeed.kernels.triton_convolution import TritonConvolution, suitable_blocks

    layer = Layer(torch.device("cuda"), dtype, 2, 67, 131, channels, out_channels, pitch=192, out_pitch=64)
    for blocks in suitable_blocks(channels, out_channels):
        ours = TritonConvolution(blocks)
        seconds = iter([1.0, 0.5])  # faster, in any case: so it is taken if it is right
        with torch.inference_mode():
            chosen = choose_convolution([Candidate(str(blocks), ours)], layer, lambda work, left=seconds: next(left))
        assert chosen is ours, blocks


@cuda
@DTYPES
def test_esrgan_by_triton_gives_the_plain_picture_on_the_device(dtype: torch.dtype) -> None:
    from cudaspeed.kernels.triton_convolution import TritonConvolution, suitable_blocks

    def find(layer: Layer) -> list[Candidate]:
        return [Candidate("ours", TritonConvolution(suitable_blocks(layer.channels, layer.out_channels)[-1]))]

    torch.manual_seed(0)
    plain = ESRGAN(in_nc=3, out_nc=3, num_filters=64, num_blocks=2).eval().cuda()
    ours = ESRGAN(in_nc=3, out_nc=3, num_filters=64, num_blocks=2).eval().cuda()
    ours.load_state_dict(plain.state_dict())
    x = torch.rand(2, 3, 70, 93, device="cuda")
    times = iter([1.0, 0.5] * 10)
    assert rewrite_dense_groups(ours, Convolutions(find, lambda work: next(times))) == 2
    ours = ours.to(dtype, memory_format=torch.channels_last)
    with torch.inference_mode():
        truth, result = plain(x), ours(x.to(dtype)).float()
    limit = {torch.float32: 2e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}[dtype]
    assert float((result - truth).abs().max()) <= limit * float(truth.abs().max())
