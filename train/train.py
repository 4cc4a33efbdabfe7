"""Train the bundled Compact network: `python train/train.py` (or `make model`). Seeded; runs on a GPU or the CPU.

Compact is the plain convolution + PReLU chain of Real-ESRGAN's SRVGGNetCompact (Wang et al. 2021,
https://github.com/xinntao/Real-ESRGAN), which spandrel recognises and loads. L1 loss, Adam with a cosine schedule, an
exponential average of the weights. The first part runs under bfloat16 autocast (1.7 times as fast on a CPU that has
it), the last in float32, so that the kept weights are float32's.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import sources
import synthetic
import torch
from degrade import degrade
from evaluate import luma_psnr, upscale_picture
from PIL import Image
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact

BUNDLED = Path(__file__).absolute().parent.parent / "models" / "cudaspeed-compact-x2.safetensors"

Pair = tuple[np.ndarray, np.ndarray]  # (small [h, w, 3] uint8, large [h*scale, w*scale, 3] uint8)


def cut_to_multiple(picture: Image.Image, scale: int) -> Image.Image:
    return picture.crop((0, 0, picture.width // scale * scale, picture.height // scale * scale))


def build_pairs(scale: int, rng: np.random.Generator) -> tuple[list[Pair], np.ndarray]:
    """Every training pair at full size, and the probability [N] of drawing from each."""
    pictures: list[tuple[Image.Image, float]] = []
    photos = [(photo, sources.load(photo)) for photo in sources.PHOTOS]
    for photo, picture in photos:
        for copy in sources.shrunken(picture, photo.largest, rng, copies=6):
            pictures.append((copy, 1.0))
    palette = np.concatenate([np.asarray(p).reshape(-1, 3)[::97] for _, p in photos])
    for _ in range(24):
        pictures.append((synthetic.line_art(256, rng), 0.25))
        pictures.append((synthetic.text(256, rng), 0.25))
        pictures.append((synthetic.dead_leaves(384, rng, palette), 0.8))
    pairs: list[Pair] = []
    weights: list[float] = []
    for picture, weight in pictures:
        large = cut_to_multiple(picture, scale)
        for _ in range(3):
            pairs.append((np.asarray(degrade(large, scale, rng)), np.asarray(large)))
            weights.append(weight * math.sqrt(large.width * large.height))
    p = np.asarray(weights)
    return pairs, p / p.sum()


def draw_patch(pair: Pair, scale: int, patch: int, rng: np.random.Generator) -> Pair:
    """One patch, turned and mirrored at random. Of two places the busier one: flat patches teach nothing."""
    small, large = pair
    best: Pair | None = None
    for _ in range(2):
        y = int(rng.integers(0, small.shape[0] - patch + 1))
        x = int(rng.integers(0, small.shape[1] - patch + 1))
        here = (
            small[y : y + patch, x : x + patch],
            large[y * scale : (y + patch) * scale, x * scale : (x + patch) * scale],
        )
        if best is None or here[0].std() > best[0].std():
            best = here
    turns, mirror, channels = int(rng.integers(4)), rng.random() < 0.5, rng.permutation(3)
    a, b = (np.rot90(t[..., channels], turns) for t in best)
    return (a[:, ::-1], b[:, ::-1]) if mirror else (a, b)


def batch_of(
    pairs: list[Pair], p: np.ndarray, scale: int, patch: int, size: int, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of (small, large) patches, float 0..1, [N, 3, H, W], channels last."""
    chosen = [draw_patch(pairs[i], scale, patch, rng) for i in rng.choice(len(pairs), size, p=p)]

    def stack(k: int) -> torch.Tensor:
        array = np.stack([np.ascontiguousarray(c[k]) for c in chosen])
        return torch.from_numpy(array).permute(0, 3, 1, 2).float().div_(255)

    return stack(0), stack(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--features", type=int, default=32)
    parser.add_argument("--convs", type=int, default=12)
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--patch", type=int, default=40, help="side of the small patch, pixels")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=BUNDLED)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    device = torch.device(args.device)
    pairs, p = build_pairs(args.scale, rng)
    held_out = cut_to_multiple(sources.load(sources.HELD_OUT), args.scale)

    def network() -> Compact:
        return Compact(num_in_ch=3, num_out_ch=3, num_feat=args.features, num_conv=args.convs, upscale=args.scale)

    model = network()
    with torch.no_grad():  # start near the base picture (nearest neighbour) that the network adds its detail to
        model.body[-1].weight.mul_(0.1)
        model.body[-1].bias.zero_()
    model = model.to(device, memory_format=torch.channels_last)
    average = {k: v.detach().clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.Adam(model.parameters(), args.rate)
    fp32_from = int(args.steps * 0.8)
    start, losses = time.perf_counter(), []
    for step in range(args.steps):
        warm = min(1.0, (step + 1) / 200)
        optimizer.param_groups[0]["lr"] = args.rate * warm * (0.5 + 0.5 * math.cos(math.pi * step / args.steps)) + 1e-6
        small, large = (
            t.to(device, memory_format=torch.channels_last)
            for t in batch_of(pairs, p, args.scale, args.patch, args.batch, rng)
        )
        with torch.autocast(device.type, torch.bfloat16, enabled=step < fp32_from):
            guess = model(small)
        loss = (guess.float() - large).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        losses.append(loss.item())
        with torch.no_grad():
            decay = min(0.999, step / (step + 100))
            for key, value in model.state_dict().items():
                average[key].lerp_(value, 1 - decay)
        if (step + 1) % 1000 == 0 or step + 1 == args.steps:
            judge = network()
            judge.load_state_dict({k: v.cpu() for k, v in average.items()})
            small_picture = held_out.resize(
                (held_out.width // args.scale, held_out.height // args.scale), Image.Resampling.BICUBIC
            )
            psnr = luma_psnr(upscale_picture(judge, small_picture), held_out, args.scale)
            bicubic = luma_psnr(small_picture.resize(held_out.size, Image.Resampling.BICUBIC), held_out, args.scale)
            print(
                f"step {step + 1} loss {np.mean(losses[-1000:]):.5f} held-out {psnr:.2f} dB "
                f"(bicubic {bicubic:.2f}, {psnr - bicubic:+.2f}) {time.perf_counter() - start:.0f} s",
                flush=True,
            )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    recipe = {k: str(v) for k, v in vars(args).items() if k not in ("out", "device")}
    save_file(
        {k: v.cpu().contiguous() for k, v in average.items()},
        args.out,
        metadata={"architecture": "Compact", "licence": "MIT", "recipe": json.dumps(recipe)},
    )
    print(f"wrote {args.out} ({args.out.stat().st_size} bytes)")


if __name__ == "__main__":
    main()
