"""The loss as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def draw_losses(losses: list[float], path: Path) -> None:
    """Each step's loss, and the mean of a fiftieth of them all, as a PNG. Raises `ModuleNotFoundError` where matplotlib
    is not installed."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss", yscale="log")
    axes.plot(losses, linewidth=0.4, alpha=0.5)
    window = max(1, len(losses) // 50)
    means = np.convolve(losses, np.full(window, 1 / window), mode="valid")
    axes.plot(np.arange(len(means)) + window / 2, means)
    figure.savefig(path)
