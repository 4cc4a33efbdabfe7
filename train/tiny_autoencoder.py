"""A small autoencoder of TAESD's kind, to try the training of latent upscalers with: `python train/tiny_autoencoder.py
--pictures FOLDER --out FOLDER`.

Four channels, eight pixels a value, as Stable Diffusion's, but trained here within minutes: it is not theirs, and what
is trained on its latents is of no use with any model there is. Diffusers' AutoencoderTiny, saved as diffusers does.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from encode import signed
from PIL import Image
from torch import Tensor
from tqdm import tqdm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of PNG files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--patch", type=int, default=64, help="side in pixels, a multiple of 8")
    parser.add_argument("--width", type=int, default=32, help="channels within")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=2026)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    draw = np.random.default_rng(args.seed)
    pictures = [signed(Image.open(path).convert("RGB"))[0] for path in sorted(args.pictures.glob("*.png"))]
    widths = (args.width,) * 4
    network = AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=(1, 1, 2, 2),
        num_decoder_blocks=(2, 2, 1, 1),
    )
    optimizer = torch.optim.Adam(network.parameters(), args.rate)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.rate, total_steps=args.steps, pct_start=0.1)
    bar = tqdm(range(args.steps), unit="step")
    for _ in bar:
        true = patches(pictures, args.batch, args.patch, draw)
        error = network.decode(network.encode(true).latents).sample - true
        loss = error.abs().mean() + error.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
    network.save_pretrained(args.out)


def patches(pictures: list[Tensor], count: int, side: int, draw: np.random.Generator) -> Tensor:
    """[count, 3, side, side], from anywhere in any picture, mirrored at random."""
    drawn = []
    for index in draw.integers(len(pictures), size=count):
        picture = pictures[index]
        top, left = (int(draw.integers(whole - side + 1)) for whole in picture.shape[1:])
        patch = picture[:, top : top + side, left : left + side]
        drawn.append(patch.flip(2) if draw.random() < 0.5 else patch)
    return torch.stack(drawn)


if __name__ == "__main__":
    main()
