"""One photograph is enough for pictures of every size."""

from __future__ import annotations

import torch

from bench.photograph import EXAMPLE, photograph
from cudaspeed.images.files import read_image


def test_a_photograph_is_mirrored_on_and_moves_from_frame_to_frame() -> None:

    height, width, _ = read_image(EXAMPLE).pixels.shape
    frames = photograph(2 * height, width + 10, frames=2)
    assert frames.shape == (2, 2 * height, width + 10, 3)
    assert torch.equal(frames[0, :height], frames[0, height:].flip(0))
    assert torch.equal(frames[0, :, 3:], frames[1, :, :-3])
    assert not torch.equal(frames[0], frames[1])
