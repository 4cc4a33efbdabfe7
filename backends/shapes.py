"""The tile batches that one compiled forward takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TileShapes:
    """The tile batches [N, C, h, w] that one compiled forward takes: N up to `batch`, (h, w) from `least` to `most`,
    both multiples of `step`, in pixels of the model's input. One size only where `least` equals `most`.

    A compiled package checks none of this: it computes nonsense from other shapes, or reads beyond them.
    """

    batch: int
    least: tuple[int, int]
    most: tuple[int, int]
    step: int

    @property
    def fixed(self) -> bool:
        """One size only."""
        return self.least == self.most

    def fit(self, shape: Sequence[int]) -> bool:
        """Whether a tile batch of this [N, C, h, w] may be given to the compiled forward."""
        sides = zip(shape[2:], self.least, self.most, strict=True)
        return 1 <= shape[0] <= self.batch and all(
            least <= side <= most and side % self.step == 0 for side, least, most in sides
        )

    def __str__(self) -> str:
        """For people, widths first, and for `parse`."""
        high = f"{self.most[1]}x{self.most[0]}"
        if self.fixed:
            return f"tiles of {high}" + (f", {self.batch} at once" if self.batch > 1 else "")
        low = f"{self.least[1]}x{self.least[0]}"
        return f"tiles of {low} to {high} in steps of {self.step}, up to {self.batch} at once"

    @staticmethod
    def parse(text: str) -> TileShapes:
        """What `str` gave. Raises `ValueError` for any other text."""
        size = r"(\d+)x(\d+)"
        found = re.fullmatch(
            rf"tiles of {size}(?:, (\d+) at once| to {size} in steps of (\d+), up to (\d+) at once)?", text
        )
        if not found:
            raise ValueError(f"{text!r} names no tile shapes")
        width, height, *rest = (int(number) for number in found.groups() if number)
        if len(rest) < 2:
            return TileShapes.one(height, width, *rest)
        most_width, most_height, step, batch = rest
        return TileShapes(batch, (height, width), (most_height, most_width), step)

    @staticmethod
    def one(height: int, width: int, batch: int = 1) -> TileShapes:
        """Tiles of one size."""
        return TileShapes(batch, least=(height, width), most=(height, width), step=1)
