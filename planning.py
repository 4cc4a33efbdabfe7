"""How a run is cut up: tiles and batches within the memory there is, and smaller ones when there was less."""

from __future__ import annotations

import torch

from .contracts import Level, MemoryCost, ModelTraits, TilePlan, UpscaleOptions
from .memory import affordable_pixels
from .tiling import automatic_overlap, memory_saving_side, plan_tiles

# Beyond this many pixels a batch no longer fills the device better. A CPU is full with one small tile.
_BATCH_PIXELS = {"cuda": 1 << 20, "cpu": 1 << 14}


class Planner:
    """The tile plan and the batch of a run, which `shrink` makes smaller.

    `size` is a frame's (height, width), `pictures` how many pictures go through the model together at most (frames in
    flight, three for each where colours go one by one). Raises `BadOptionError` for a tile or overlap that cannot be.
    """

    def __init__(
        self,
        size: tuple[int, int],
        pictures: int,
        traits: ModelTraits,
        options: UpscaleOptions,
        cost: MemoryCost,
        free_bytes: int,
        device: torch.device,
    ) -> None:
        self._size, self._pictures, self._traits, self._options, self._device = size, pictures, traits, options, device
        # However little seems free: tiles that are mostly overlap are for when memory really ran out.
        least = 4 * automatic_overlap(traits)
        self._affordable = max(least * least, affordable_pixels(cost, free_bytes, self._share(), device))
        self.plan = self._plan()
        self.batch = self._even_batch(self._affordable // self.plan.tile_pixels)

    def one_by_one(self) -> None:
        """A tile a batch from now on, for models that do not take several pictures at once."""
        self.batch = 1

    def overlap_warning(self) -> str | None:
        """Tells when tiles turned out too small for the overlap that suits the model."""
        suits = automatic_overlap(self._traits)
        cut = [axis for axis in (self.plan.rows, self.plan.columns) if len(axis.origins) > 1]
        if self._options.overlap or all(axis.overlap >= suits for axis in cut):
            return None
        return (
            f"tiles of {self.plan.columns.tile}x{self.plan.rows.tile} leave room for an overlap of only "
            f"{min(axis.overlap for axis in cut)} pixels where {suits} suit {self._traits.name}: seams may show; "
            "allow larger tiles"
        )

    def shrink(self) -> bool:
        """Halve the pixels of a forward: fewer tiles a batch first, then smaller tiles. False: there is no less."""
        if self.batch > 1:
            self.batch = self._even_batch(self.batch // 2)
            return True
        before = self.plan.tile_pixels
        self._affordable = max(1, before // 2)
        self.plan = self._plan()
        return self.plan.tile_pixels < before

    def _share(self) -> Level:
        """A model that looks at the whole picture gets all the room there is, unless memory is to be saved."""
        level = self._options.level
        return "speed" if self._traits.sees_whole and level == "balanced" else level

    def _plan(self) -> TilePlan:
        """Within what is affordable, the user's tile and the level's; the whole picture in one where that fits."""
        options, traits = self._options, self._traits
        max_side = options.tile or None
        if max_side is None and options.level == "memory":
            max_side = memory_saving_side(traits, options.overlap or automatic_overlap(traits))
        return plan_tiles(
            *self._size, traits, max_pixels=self._affordable, max_side=max_side, overlap=options.overlap or None
        )

    def _even_batch(self, most: int) -> int:
        """At most `most` tiles and what the device has use for, evened out over the pictures' tiles."""
        tile, total = self.plan.tile_pixels, self._pictures * self.plan.count
        appetite = tile if self._options.level == "memory" else _BATCH_PIXELS.get(self._device.type, 1 << 20)
        most = max(1, min(total, most, appetite // tile))
        return -(-total // -(-total // most))
