"""What tiling changes, for every single-image architecture of spandrel: `python -m bench.seams [--pictures P ...]`.

Each picture is upscaled in one piece and in tiles, in fp32: with the overlap that was the default before overlaps were
measured, as ComfyUI core does (tiles anywhere, 32 pixels shared, all of them feathered), and with the automatic one.
Told is the largest difference from the one piece, in 1/255, and the PSNR, each the worst of the pictures; what tiling
computes more than once; and what measuring takes once, in forwards of 128x128 pixels.

The models have few channels and random weights of a fixed seed. What starts at zero, and so would switch a branch off,
is random too; the output is scaled and shifted so that for the first picture its mean is 0.5 and its standard deviation
0.2, like a picture's. Files of trained models can be given instead: `--models FILE ...`.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import math
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from spandrel import Architecture, ImageModelDescriptor
from torch import Tensor, nn

from cudaspeed.api.errors import first_line
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.api.report import UpscaleReport
from cudaspeed.api.upstream import architecture_call
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.models.info import model_info
from cudaspeed.models.loader import load_model
from cudaspeed.models.receptive_field import measure_receptive_field
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.tiling.plan import automatic_overlap
from cudaspeed.upscale_engine import upscale

from .photograph import EXAMPLE

_CORE_OVERLAP = 32

# spandrel's module -> the network in it and what it is made with: the architecture's own structure, few channels. Not
# here: AuraSR, which there is in one size only, of 617 million weights, and the models for faces of 512x512 pixels.
_WINDOWS: dict[str, Any] = {"depths": [2, 2], "embed_dim": 24, "num_heads": [2, 2], "upscale": 2}
_ZOO: dict[str, tuple[str, dict[str, Any]]] = {
    "ATD": ("ATD", {**_WINDOWS, "window_size": 16, "category_size": 64, "num_tokens": 16, "reducted_dim": 4,
                    "upsampler": "pixelshuffle"}),
    "Compact": ("Compact", {"num_feat": 24, "num_conv": 16, "upscale": 2}),
    "CRAFT": ("CRAFT", {"embed_dim": 24, "depths": [2, 2], "num_heads": [6, 6], "upscale": 2}),
    "DAT": ("DAT", {"embed_dim": 24, "split_size": [8, 16], "depth": [2, 2], "num_heads": [2, 2], "upscale": 2}),
    "DCTLSA": ("DCTLSA", {"nf": 20, "num_modules": 6, "num_head": 5, "upscale": 2}),
    "DITN": ("DITN", {"dim": 24, "ITL_blocks": 2, "SAL_blocks": 2, "upscale": 2}),
    "DnCNN": ("DnCNN", {"in_nc": 3, "out_nc": 3, "nc": 24, "nb": 17}),
    "DRCT": ("DRCT", {"embed_dim": 24, "depths": [6, 6], "num_heads": [2, 2], "window_size": 16, "gc": 8, "upscale": 2,
                      "upsampler": "pixelshuffle"}),
    "DRUNet": ("DRUNet", {"in_nc": 4, "out_nc": 3, "nc": [8, 16, 24, 32], "nb": 2}),
    "ESRGAN": ("ESRGAN", {"num_filters": 16, "num_blocks": 6, "scale": 4}),
    "FBCNN": ("FBCNN", {"nc": [8, 16, 24, 512], "nb": 2}),
    "FDAT": ("FDAT", {"embed_dim": 24, "num_groups": 2, "scale": 2}),
    "FFTformer": ("FFTformer", {"dim": 12, "num_blocks": [1, 1, 2], "num_refinement_blocks": 1}),
    "GRL": ("GRL", {"img_size": 64, "embed_dim": 24, "upscale": 2, "upsampler": "pixelshuffle", "depths": [1, 1],
                    "num_heads_window": [2, 2], "num_heads_stripe": [2, 2]}),
    "HAT": ("HAT", {**_WINDOWS, "window_size": 16, "compress_ratio": 3, "squeeze_factor": 8}),
    "HVICIDNet": ("HVICIDNet", {"channels": [12, 12, 24, 48]}),
    "IPT": ("IPT", {"n_feats": 8, "num_layers": 2, "num_heads": 4, "scale": [2]}),
    "KBNet": ("KBNet_s", {"width": 16, "middle_blk_num": 2, "enc_blk_nums": [1] * 4, "dec_blk_nums": [1] * 4}),
    "MixDehazeNet": ("MixDehazeNet", {"embed_dims": [12, 24, 48, 24, 12]}),
    "MMRealSR": ("MMRealSR", {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 16, "num_block": 4, "num_grow_ch": 8,
                              "num_feats": [16, 32, 64, 128], "num_blocks": [1, 1, 1, 1]}),
    "MoESR": ("MoESR", {"scale": 2, "dim": 24, "n_blocks": 4, "n_block": 2, "upsample_dim": 24}),
    "MoSR": ("MoSR", {"upscale": 2, "n_block": 8, "dim": 24}),
    "NAFNet": ("NAFNet", {"width": 12, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}),
    "OmniSR": ("OmniSR", {"num_feat": 24, "block_num": 1, "res_num": 2, "up_scale": 2}),
    "PLKSR": ("PLKSR", {"dim": 24, "n_blocks": 8, "upscaling_factor": 2}),
    "RealPLKSR": ("RealPLKSR", {"dim": 24, "n_blocks": 8, "upscaling_factor": 2}),
    "RCAN": ("RCAN", {"n_resgroups": 3, "n_resblocks": 4, "n_feats": 16, "reduction": 4, "scale": 2}),
    "RealCUGAN": ("UpCunet2x", {}),
    "RetinexFormer": ("RetinexFormer", {"n_feat": 12, "stage": 1}),
    "RGT": ("RGT", {"embed_dim": 24, "depth": [4, 4], "num_heads": [2, 2], "split_size": [8, 16], "upscale": 2}),
    "SAFMN": ("SAFMN", {"dim": 24, "upscaling_factor": 2}),
    "SAFMNBCIE": ("SAFMNBCIE", {"dim": 24, "n_blocks": 2, "num_layers": 2, "upscaling_factor": 2}),
    "SCUNet": ("SCUNet", {"config": [1] * 7, "dim": 64}),
    "SeemoRe": ("SeemoRe", {"scale": 2, "num_layers": 3, "embedding_dim": 24, "num_experts": 3}),
    "SPAN": ("SPAN", {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 24, "upscale": 2}),
    "SwiftSRGAN": ("SwiftSRGAN", {"num_channels": 24, "num_blocks": 8, "upscale_factor": 2}),
    "Swin2SR": ("Swin2SR", {**_WINDOWS, "window_size": 8, "upsampler": "pixelshuffle"}),
    "SwinIR": ("SwinIR", {**_WINDOWS, "window_size": 8, "upsampler": "pixelshuffle"}),
    "Uformer": ("Uformer", {"embed_dim": 8, "depths": [1] * 9}),
}  # fmt: skip


class Deviation(NamedTuple):
    """Of a tiled picture from the one piece: the largest of a value, in 1/255, and the PSNR in dB."""

    most: float
    db: float


def random_model(name: str, picture: Tensor) -> ImageModelDescriptor:
    """A model of spandrel's module `name` whose output for `picture` [1, 3, h, w] has a picture's range."""
    torch.manual_seed(0)
    module = importlib.import_module(f"spandrel.architectures.{'PLKSR' if name == 'RealPLKSR' else name}")
    class_name, arguments = _ZOO[name]
    network: nn.Module = getattr(module, class_name)(**arguments)
    architecture: Architecture = getattr(
        module, "KBNetArch" if name == "KBNet" else f"{module.__name__.split('.')[-1]}Arch"
    )()
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.05)
    descriptor = architecture.load(network.state_dict()).eval()
    call = architecture_call(descriptor)
    with torch.inference_mode():
        output = call(descriptor.model, _for_model(picture, descriptor).clone())
    mean, spread = float(output.mean()), max(1e-6, float(output.std()))
    descriptor._call_fn = lambda model, x: (call(model, x) - mean) * (0.2 / spread) + 0.5
    return descriptor


def read(path: Path, side: int) -> Tensor:
    """The middle of a picture, at most `side` x `side`, [1, 3, h, w] 0..1; whole multiples of 128, so that no model has
    to fill it up, for which there are several ways."""
    pixels = np.array(Image.open(path).convert("RGB"), dtype=np.float32) / 255
    height, width = (min(side, have) // 128 * 128 for have in pixels.shape[:2])
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return torch.from_numpy(pixels[top : top + height, left : left + width]).permute(2, 0, 1)[None]


def whole(model: ImageModelDescriptor, picture: Tensor) -> Tensor:
    """What the model makes of the picture in one piece, [1, C, H, W], clamped."""
    with torch.inference_mode():
        return model(picture.clone())  # some write into their input (RCAN)


def as_core_does(model: ImageModelDescriptor, picture: Tensor, tile: int) -> Tensor:
    """As ComfyUI's `tiled_scale`: tiles of `tile` where they fall, cut off by the picture's edges."""
    s, (height, width) = model.scale, picture.shape[2:]
    total = torch.zeros(1, model.output_channels, height * s, width * s)
    weight = torch.zeros_like(total)
    ramp = (torch.arange(_CORE_OVERLAP * s) + 1) / (_CORE_OVERLAP * s)
    step = tile - _CORE_OVERLAP
    for y in range(0, height - _CORE_OVERLAP, step):
        for x in range(0, width - _CORE_OVERLAP, step):
            result = whole(model, picture[:, :, y : y + tile, x : x + tile])
            shares = []
            for side in result.shape[2:]:
                share = torch.ones(side)
                share[: len(ramp)] *= ramp
                share[-len(ramp) :] *= ramp.flip(0)
                shares.append(share)
            mask = shares[0][:, None] * shares[1]
            area = (..., slice(y * s, y * s + len(shares[0])), slice(x * s, x * s + len(shares[1])))
            total[area] += result * mask
            weight[area] += mask
    return total / weight


def deviation(tiled: Tensor, truth: Tensor) -> Deviation:
    """How `tiled` differs from `truth`, both [1, C, H, W]."""
    off = tiled - truth
    error = float(off.double().square().mean())
    return Deviation(float(off.abs().max()) * 255, -10 * math.log10(error) if error else math.inf)


def row_for(name: str, model: ImageModelDescriptor, pictures: Sequence[Tensor], tile: int) -> str:
    """A row of the table."""
    info, sessions, context = model_info(model), SessionCache(), StandaloneContext("cpu")
    found, seconds = _timed_measurement(model)
    ways: dict[str, list[Deviation]] = {"before": [], "core": [], "after": []}
    recomputed: dict[str, float] = {}
    report: UpscaleReport | None = None
    for picture in (_for_model(picture, model) for picture in pictures):
        began = time.perf_counter()
        truth = whole(model, picture)
        one_piece = time.perf_counter() - began
        for way, overlap in (("before", automatic_overlap(info)), ("after", 0)):
            options = UpscaleOptions(precision="fp32", tile=tile, compile=False, overlap=overlap)
            result = upscale(picture.permute(0, 2, 3, 1), model, options, context, sessions)
            report = result.report
            ways[way].append(deviation(result.image.permute(0, 3, 1, 2), truth))
            computed = report.tiles * report.tile[0] * report.tile[1]
            recomputed[way] = computed / (picture.shape[2] * picture.shape[3]) - 1
        ways["core"].append(deviation(as_core_does(model, picture, tile), truth))
    assert report is not None
    kind = "convolutions" if info.convolutional else "attention"
    worst = [f"{max(d.most for d in way):.2f}, {min(d.db for d in way):.1f}" for way in ways.values()]
    shared = f"{automatic_overlap(info)} / {min(report.overlap)}"
    work = " / ".join(f"{100 * recomputed[way]:.0f} %" for way in ("before", "after"))
    cost = f"{seconds / one_piece * picture.shape[2] * picture.shape[3] / 128**2:.1f}"
    return f"| {' | '.join([name, f'{kind}, {info.alignment}', found, *worst, shared, work, cost])} |"


def _timed_measurement(model: ImageModelDescriptor) -> tuple[str, float]:
    """The receptive field, for people, and the seconds it took to measure."""

    def forward(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return architecture_call(model)(model.model, x)

    began = time.perf_counter()
    found = measure_receptive_field(forward, model_info(model), torch.device("cpu"))
    seconds = time.perf_counter() - began
    return ("not measured" if found is None else f"{found.pixels}{', unbounded' if found.unbounded else ''}"), seconds


def _for_model(picture: Tensor, model: ImageModelDescriptor) -> Tensor:
    """The picture [1, 3, h, w] in the model's number of channels: green for grey."""
    return picture[:, 1:2] if model.input_channels == 1 else picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, nargs="+", default=[EXAMPLE], help="default: the example")
    parser.add_argument("--models", nargs="*", default=list(_ZOO), help="architectures with random weights, or files")
    parser.add_argument("--tile", type=int, default=128, help="tile size, input pixels")
    parser.add_argument("--side", type=int, default=256, help="the most that is taken of a picture, input pixels")
    args = parser.parse_args()

    logging.disable(logging.WARNING)  # that tiles are small for an overlap is what the table tells
    pictures = [read(path, args.side) for path in args.pictures]
    titles = ["model", "kind, grid", "receptive field", "before: 1/255, dB", "core", "now"]
    titles += ["overlap", "recomputed", "measuring"]
    print(f"| {' | '.join(titles)} |\n|{' --- |' * len(titles)}")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CUDASPEED_CACHE_DIR"] = folder
        for name in args.models:
            try:
                model = random_model(name, pictures[0]) if name in _ZOO else load_model(Path(name))
                print(row_for(Path(name).stem, model, pictures, args.tile), flush=True)
            except (RuntimeError, ValueError) as error:  # some architectures fail at some sizes
                print(f"| {name} | fails: {first_line(error)} |", flush=True)


if __name__ == "__main__":
    main()
