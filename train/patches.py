"""Training pairs: pictures, shrunk by `degrade`, and random patches of both."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import sources
import synthetic
import torch
from degrade import degrade
from evaluate import cut_to_multiple
from PIL import Image

Pair = tuple[np.ndarray, np.ndarray]  # (small [h, w, 3] uint8, large [h*scale, w*scale, 3] uint8)


def build_pairs(scale: int, photos: Path | None, rng: np.random.Generator) -> tuple[list[Pair], np.ndarray]:
    """Every training pair at full size, and the probability [N] of drawing from each."""
    pictures: list[tuple[Image.Image, float]] = []
    colours = []
    for photo in sources.training_photos(photos):
        picture = sources.load(photo, photos)
        colours.append(np.asarray(picture.resize((64, 64))).reshape(-1, 3))
        pictures += [(copy, 1.0) for copy in sources.shrunken(picture, photo.largest, rng, copies=8)]
    palette = np.concatenate(colours)
    for _ in range(24):
        pictures.append((synthetic.line_art(256, rng), 0.25))
        pictures.append((synthetic.text(256, rng), 0.25))
        pictures.append((synthetic.dead_leaves(384, rng, palette), 0.5))
    pairs: list[Pair] = []
    weights: list[float] = []
    for picture, weight in pictures:
        large = cut_to_multiple(picture, scale)
        pairs.append((np.asarray(degrade(large, scale, rng)), np.asarray(large)))
        weights.append(weight * math.sqrt(large.width * large.height))
    p = np.asarray(weights)
    return pairs, p / p.sum()


def _draw(pair: Pair, scale: int, patch: int, rng: np.random.Generator) -> Pair:
    """One patch, turned and mirrored at random. Of three places the busiest: flat patches teach nothing."""
    small, large = pair
    places = [
        (int(rng.integers(0, small.shape[0] - patch + 1)), int(rng.integers(0, small.shape[1] - patch + 1)))
        for _ in range(3)
    ]
    y, x = max(places, key=lambda at: small[at[0] : at[0] + patch, at[1] : at[1] + patch].std())
    a = small[y : y + patch, x : x + patch]
    b = large[y * scale : (y + patch) * scale, x * scale : (x + patch) * scale]
    turns, mirror = int(rng.integers(4)), rng.random() < 0.5
    a, b = np.rot90(a, turns), np.rot90(b, turns)
    return (a[:, ::-1], b[:, ::-1]) if mirror else (a, b)


def batch_of(
    pairs: list[Pair], p: np.ndarray, scale: int, patch: int, size: int, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of (small, large) patches, float 0..1, [N, 3, H, W], channels last."""
    chosen = [_draw(pairs[i], scale, patch, rng) for i in rng.choice(len(pairs), size, p=p)]

    def stack(k: int) -> torch.Tensor:
        array = np.stack([np.ascontiguousarray(c[k]) for c in chosen])
        return torch.from_numpy(array).permute(0, 3, 1, 2).float().div_(255)

    return stack(0), stack(1)
