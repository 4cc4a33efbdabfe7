"""Pairs of latents on disk, one file a picture, and batches of patches of them.

A file is safetensors with "small" [C, h, w] and "large" [C, scale * h, scale * w], raw latents of one picture in two
sizes, and, where it is to be judged by, "picture" [3, H, W] uint8. Its texts tell the scale, and which autoencoder.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

_ABOUT = "pair"


@dataclass(frozen=True)
class About:
    """What latents are of: the scale between two, the autoencoder's channels and the sha256 of its weights, and what
    models it belongs to, as "SDXL"."""

    scale: float
    channels: int
    sha256: str
    base: str


def write_pair(path: Path, tensors: dict[str, Tensor], about: About) -> None:
    """One picture's latents, as float16 would not hold them, in float32. The file appears complete or not at all."""
    unfinished, texts = path.with_suffix(".part"), {_ABOUT: json.dumps(asdict(about))}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, unfinished, texts)
    unfinished.replace(path)


class Pairs:
    """The pairs in a folder. Raises `FileNotFoundError` where there are none, `ValueError` for those of several
    autoencoders or scales."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.glob("*.safetensors"))
        if not self.files:
            raise FileNotFoundError(f"{folder}: holds no pairs of latents; encode.py makes them")
        abouts = {_about(path) for path in self.files}
        if len(abouts) > 1:
            raise ValueError(f"{folder}: holds pairs of {len(abouts)} kinds; each kind needs a folder of its own")
        self.about = abouts.pop()

    def __len__(self) -> int:
        return len(self.files)

    def whole(self, index: int) -> dict[str, Tensor]:
        """All that a file holds."""
        with safe_open(self.files[index], "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dictionary

    def batch(self, size: int, patch: int, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Patches, [N, C, patch, patch] and as large a part of the larger latents; each from anywhere in any file.
        Raises `ValueError` where `patch` is more than a file has."""
        drawn = [self._patch(int(index), patch, draw) for index in draw.integers(len(self), size=size)]
        small, large = (torch.stack(parts) for parts in zip(*drawn, strict=True))
        return small, large

    def _patch(self, index: int, patch: int, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
        with safe_open(self.files[index], "pt") as file:
            small, large = file.get_slice("small"), file.get_slice("large")
            sides = small.get_shape()[1:]
            if min(sides) < patch:
                raise ValueError(f"{self.files[index]}: latents of {sides} are less than a patch of {patch}")
            step = _step(self.about.scale)
            top, left = (int(draw.integers((side - patch) // step + 1)) * step for side in sides)
            y, x, more = (round(place * self.about.scale) for place in (top, left, patch))
            return small[:, top : top + patch, left : left + patch], large[:, y : y + more, x : x + more]


def _about(path: Path) -> About:
    with safe_open(path, "pt") as file:
        texts = file.metadata() or {}
    if _ABOUT not in texts:
        raise ValueError(f"{path}: is no pair of latents; encode.py makes them")
    return About(**json.loads(texts[_ABOUT]))


def _step(scale: float) -> int:
    """The least number of values whose multiples lie on values of the larger latent: 1 for 2, 2 for 1.5, 4 for 1.25."""
    return next(step for step in (1, 2, 4, 8) if float(step * scale).is_integer())
