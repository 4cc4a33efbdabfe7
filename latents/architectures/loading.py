"""What the families share: shapes read off a state dict, and a network filled with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)
PUBLISHED_SIDE = 64
"""Of the latents that published networks keep masks for."""


def sides_of(weights: Mapping[str, Tensor], key: str, expected: Sequence[int | None]) -> tuple[int, ...]:
    """The shape of the tensor under `key`, which is as `expected` but where that says None."""
    if key not in weights:
        raise ValueError(f"{key}: expected {_written(expected)}, found none")
    found = tuple(weights[key].shape)
    if len(found) != len(expected) or any(b not in (None, a) for a, b in zip(found, expected, strict=True)):
        raise ValueError(f"{key}: expected {_written(expected)}, found {_written(found)}")
    return found


def count_of(weights: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbers 0, 1, 2 and so on follow `prefix` without a gap in the keys: one great number in a file makes
    no great network."""
    numbers = {key[len(prefix) :].split(".", 1)[0] for key in weights if key.startswith(prefix)}
    count = 0
    while str(count) in numbers:
        count += 1
    return count


def window_of(weights: Mapping[str, Tensor], table: str) -> tuple[int, int]:
    """The side of the square windows and the heads of an attention with a `table` of biases: [(2 side - 1)^2, heads]"""
    places, heads = sides_of(weights, table, (None, None))
    window = next(side for side in range(1, places + 2) if (2 * side - 1) ** 2 >= places)
    sides_of(weights, table, ((2 * window - 1) ** 2, None))
    return window, heads


def trained_side(weights: Mapping[str, Tensor], mask: str, window: int) -> int:
    """The side of the latents that a network of spandrel's keeps a `mask` for, [windows, pixels, pixels].

    Where there is none it is the published one, so that the mask is missed: spandrel's would shift no windows instead.
    """
    if mask not in weights:
        return PUBLISHED_SIDE
    windows, _, _ = sides_of(weights, mask, (None, window**2, window**2))
    return round(windows**0.5) * window


def filled(network: Network, weights: Mapping[str, Tensor]) -> Network:
    """`network` with all `weights`, to be evaluated."""
    own = network.state_dict()
    for key, tensor in own.items():
        sides_of(weights, key, tensor.shape)
    for key in weights:
        if key not in own:
            raise ValueError(f"{key}: expected none, found {_written(weights[key].shape)}")
    network.load_state_dict(dict(weights))
    return network.eval().requires_grad_(False)


def _written(sides: Sequence[int | None]) -> str:
    return "[" + ", ".join("any" if side is None else str(side) for side in sides) + "]"
