"""The loop: patches of pairs, a loss, a step, an average of the weights; gone on with where it stopped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from .checkpoints import load_state, save_state
from .losses import Weights, loss_of
from .optimizers import Name, optimizer_of
from .pairs import Pairs
from .processes import Process
from .second_stage import Discriminator, SecondStage, lesson, said_of

_WARM_UP = 100  # steps until the rate is what it is to be
_LESSON_RATE = 1e-4  # of the discriminator's Adam


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: `patch`, the side of the small latents; `batch`, of each process; `rate`, which falls
    linearly to nothing; `average`, how much of the averaged weights a step keeps; `half`, products in bfloat16."""

    steps: int
    batch: int
    patch: int
    optimizer: Name
    rate: float
    average: float
    half: bool
    seed: int


class Training:
    """A network that is trained on pairs by a recipe; `weights` and `stage` are what its results are measured by."""

    def __init__(self, network: nn.Module, recipe: Recipe, weights: Weights, stage: SecondStage, process: Process):
        self.recipe, self.weights, self.stage, self.process = recipe, weights, stage, process
        self.network = network.train().to(process.device)
        self.averaged = AveragedModel(self.network, avg_fn=_kept(recipe.average), use_buffers=True)
        self._together = process.together(self.network)
        self._optimizer = optimizer_of(recipe.optimizer, self.network.parameters(), recipe.rate)
        self.losses: list[float] = []
        self._judge: tuple[Discriminator, nn.Module, torch.optim.Optimizer] | None = None

    def steps(self, pairs: Pairs, decode: Callable[[Tensor], Tensor] | None) -> Iterator[float]:
        """Goes on to the recipe's last step, with the loss of each."""
        if self.stage.wanted and self._judge is None:
            self._judge = self._new_judge(pairs.about.channels)
        while len(self.losses) < self.recipe.steps:
            loss = self._step(pairs, decode)
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"step {len(self.losses) + 1}: the loss is {loss}; what was saved before stays. A smaller --rate "
                    "or --precision fp32 may do better"
                )
            self.losses.append(loss)
            yield self.losses[-1]

    def save(self, path: Path) -> None:
        """All that going on needs."""
        about = {"losses": self.losses, "optimizer_name": self.recipe.optimizer}
        save_state(path, {name: part.state_dict() for name, part in self._parts()} | about)

    def resume(self, path: Path, channels: int) -> None:
        """Go on from what `save` wrote, at the recipe's rate. Raises `ValueError` where that is of another network or
        optimizer."""
        if self.stage.wanted and self._judge is None:
            self._judge = self._new_judge(channels)
        saved = load_state(path)
        if saved["optimizer_name"] != self.recipe.optimizer:
            raise ValueError(f"{path}: is of the optimizer {saved['optimizer_name']}; go on with that one")
        try:
            for name, part in self._parts():
                if name in saved:  # a second stage may begin with what a first one has left
                    part.load_state_dict(saved[name])
        except RuntimeError as error:
            raise ValueError(f"{path}: is of another network; go on with its --architecture and sizes") from error
        self.losses = saved["losses"]

    def _step(self, pairs: Pairs, decode: Callable[[Tensor], Tensor] | None) -> float:
        recipe, step, device = self.recipe, len(self.losses), self.process.device
        # by the step, so that a run that was interrupted sees what it would have seen
        draw = np.random.default_rng((recipe.seed, step, self.process.rank))
        torch.manual_seed(int(draw.integers(1 << 62)))  # the networks drop paths at random
        small, large = (part.to(device) for part in pairs.batch(recipe.batch, recipe.patch, draw))
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.half):
            made = self._together(small).float()
        loss = loss_of(made, large, self.weights, decode)
        if self._judge is not None:
            loss = loss + said_of(self._judge[0], made, large, self.stage, step)
        for group in self._optimizer.param_groups:
            group["lr"] = recipe.rate * self._share(step)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self.averaged.update_parameters(self.network)
        if self._judge is not None:
            self._teach(made, large)
        return loss.item()

    def _teach(self, made: Tensor, true: Tensor) -> None:
        assert self._judge is not None
        _, together, optimizer = self._judge
        optimizer.zero_grad()
        lesson(together, made, true).backward()
        optimizer.step()

    def _new_judge(self, channels: int) -> tuple[Discriminator, nn.Module, torch.optim.Optimizer]:
        judge = Discriminator(channels).to(self.process.device)
        return judge, self.process.together(judge), torch.optim.Adam(judge.parameters(), _LESSON_RATE)

    def _share(self, step: int) -> float:
        return min(1.0, (step + 1) / _WARM_UP) * max(0.0, 1 - step / self.recipe.steps)

    def _parts(self) -> list[tuple[str, Any]]:
        parts: list[tuple[str, Any]] = [
            ("network", self.network),
            ("averaged", self.averaged),
            ("optimizer", self._optimizer),
        ]
        if self._judge is not None:
            parts += [("discriminator", self._judge[0]), ("discriminator_optimizer", self._judge[2])]
        return parts


def _kept(most: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Of the average a step keeps less at the beginning, when there is little in it."""

    def average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        if not averaged.is_floating_point():
            return current
        return torch.lerp(averaged, current, 1 - min(most, (1 + int(count)) / (10 + int(count))))

    return average
