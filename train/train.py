"""Train a bundled Compact network: `python train/train.py --scale 2 --photos FOLDER`. Seeded; on a GPU or the CPU.

Compact is the plain convolution + PReLU chain of Real-ESRGAN's SRVGGNetCompact (Wang et al. 2021,
https://github.com/xinntao/Real-ESRGAN), which spandrel recognises and loads. The loss is L1 on the colours plus L1 on
luma, which the eye and the customary PSNR look at. Muon for the convolutions, Adam for the rest, a rate that falls
linearly to nothing, an exponential average of the weights. All of it in float32.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import sources
import torch
from evaluate import cut_to_multiple, luma_psnr, shrink, upscale_picture
from extremes import extremes, overshoot
from muon import Muon
from patches import batch_of, build_pairs
from PIL import Image
from safetensors.torch import load_file, save_file
from spandrel.architectures.Compact import Compact

MODELS = Path(__file__).absolute().parent.parent / "models" / "bundled"

Weights = dict[str, torch.Tensor]


def starting_weights(start: Path, fresh: Weights) -> Weights:
    """Those of `start`; where its scale is smaller, each sub-pixel begins as the coarser one that covers it."""
    weights = load_file(start)
    last = max((k for k in fresh if k.startswith("body.")), key=lambda k: int(k.split(".")[1])).rsplit(".", 1)[0]
    for key in (f"{last}.weight", f"{last}.bias"):
        old, new = weights[key], fresh[key]
        # pixel shuffle: output channel = (colour * scale + row) * scale + column
        was, now = (round((len(t) / 3) ** 0.5) for t in (old, new))
        grid = old.view(3, was, was, *old.shape[1:])
        for axis in (1, 2):
            grid = grid.repeat_interleave(now // was, dim=axis)
        weights[key] = grid.reshape(new.shape).contiguous()
    return weights


class Judge:
    """How much better than bicubic a network is on the held-out pictures."""

    def __init__(self, scale: int, photos: Path | None) -> None:
        self.scale, self.rows = scale, []
        for photo in sources.held_out_photos(photos):
            large = cut_to_multiple(sources.load(photo, photos), scale)
            small = shrink(large, scale)
            bicubic = luma_psnr(small.resize(large.size, Image.Resampling.BICUBIC), large, scale)
            self.rows.append((small, large, bicubic))

    def gains(self, model: torch.nn.Module) -> list[float]:
        """In dB on luma: the first picture's, then the others'."""
        return [luma_psnr(upscale_picture(model, s), large, self.scale) - b for s, large, b in self.rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=int, default=2, choices=(2, 4))
    parser.add_argument("--photos", type=Path, help="folder of the cloned collections (train/README.md)")
    parser.add_argument("--start", type=Path, help="weights to start from, of this scale or a smaller one")
    parser.add_argument("--features", type=int, default=32)
    parser.add_argument("--convs", type=int, default=12)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--patch", type=int, default=32, help="side of the small patch, pixels")
    parser.add_argument("--rate", type=float, default=0.01, help="Muon's; Adam's is a tenth")
    parser.add_argument("--extremes", type=int, default=4, help="pictures in a batch that are only kept within range")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="default: the bundled file of the scale")
    args = parser.parse_args()
    out = args.out or MODELS / f"cudaspeed-compact-x{args.scale}.safetensors"

    if args.photos:
        sources.check(args.photos)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng, generator = np.random.default_rng(args.seed), torch.Generator().manual_seed(args.seed)
    device = torch.device(args.device)
    judge = Judge(args.scale, args.photos)
    pairs, p = build_pairs(args.scale, args.photos, rng)

    def network() -> Compact:
        return Compact(num_in_ch=3, num_out_ch=3, num_feat=args.features, num_conv=args.convs, upscale=args.scale)

    model = network()
    with torch.no_grad():  # begin near the base picture (nearest neighbour) that the network adds its detail to
        model.body[-1].weight.mul_(0.1)
        model.body[-1].bias.zero_()
    if args.start:
        model.load_state_dict(starting_weights(args.start, model.state_dict()))
    model = model.to(device, memory_format=torch.channels_last)
    average = {k: v.detach().clone() for k, v in model.state_dict().items()}
    optimizers = (
        Muon([w for w in model.parameters() if w.ndim == 4], args.rate),
        torch.optim.Adam([w for w in model.parameters() if w.ndim != 4], args.rate / 10),
    )
    luma = torch.tensor([65.481, 128.553, 24.966], device=device).view(1, 3, 1, 1) / 219  # BT.601, 0..1
    start, losses = time.perf_counter(), []
    for step in range(args.steps):
        share = min(1.0, (step + 1) / 100) * (1 - step / args.steps)
        small, large = (
            t.to(device, memory_format=torch.channels_last)
            for t in batch_of(pairs, p, args.scale, args.patch, args.batch, rng)
        )
        error = model(small) - large
        loss = error.abs().mean() + (error * luma).sum(1).abs().mean()
        if args.extremes:
            hard = extremes(args.patch, args.extremes, generator).to(device, memory_format=torch.channels_last)
            loss = loss + overshoot(model(hard))
        model.zero_grad()
        loss.backward()
        for optimizer, rate in zip(optimizers, (args.rate, args.rate / 10), strict=True):
            optimizer.param_groups[0]["lr"] = rate * share
            optimizer.step()
        losses.append(loss.item())
        with torch.no_grad():
            decay = min(0.998, step / (step + 100))
            for key, value in model.state_dict().items():
                average[key].lerp_(value, 1 - decay)
        if (step + 1) % 500 == 0 or step + 1 == args.steps:
            judged = network()
            judged.load_state_dict({k: v.cpu() for k, v in average.items()})
            first, *others = judge.gains(judged)
            print(
                f"step {step + 1} loss {np.mean(losses[-500:]):.5f} above bicubic: chelsea {first:+.3f} dB"
                + (f", kodak {np.mean(others):+.3f} dB" if others else "")
                + f" {time.perf_counter() - start:.0f} s",
                flush=True,
            )
            save(average, out, args)
    print(f"wrote {out.name} ({out.stat().st_size} bytes)")


def save(weights: Weights, out: Path, args: argparse.Namespace) -> None:
    """`weights` into `out`, with the recipe; no folders in it, which are nobody's business."""
    out.parent.mkdir(parents=True, exist_ok=True)
    recipe = {k: str(v) for k, v in vars(args).items() if k not in ("out", "device", "threads")}
    recipe["photos"] = ", ".join(c.name for c in sources.COLLECTIONS) if args.photos else "those of the wheels only"
    recipe["start"] = args.start.name if args.start else "random weights"
    save_file(
        {k: v.cpu().contiguous() for k, v in weights.items()},
        out,
        metadata={"architecture": "Compact", "licence": "MIT", "recipe": json.dumps(recipe)},
    )
    out.chmod(0o644)  # safetensors makes files that only their owner can read


if __name__ == "__main__":
    main()
