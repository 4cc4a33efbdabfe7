"""What the families share: shapes read off a state dict, and a network filled with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

from ...api.upstream import copy_module
from ...models.construction import WithoutStartingWeights
from ...models.meshgrid import ExplicitMeshgrid
from .masks import is_constant, with_shared_masks, with_shared_places

Network = TypeVar("Network", bound=nn.Module)
_KINDS = 2  # of groups of blocks in a network


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


def scale_of(weights: Mapping[str, Tensor]) -> int:
    """How much the convolutions `upsample` before the shuffled pixels enlarge: once by 3, or by 2 each."""
    if sides_of(weights, "upsample.0.weight", (None, 64, 3, 3))[0] == 9 * 64:
        return 3
    steps = 0
    while f"upsample.{2 * steps}.weight" in weights:
        steps += 1
    return 2**steps


def filled(network: Network, weights: Mapping[str, Tensor]) -> Network:
    """`network`, which was `unfilled`, with all `weights`. What follows from its sizes, which files have too, is left
    out."""
    own = network.state_dict(keep_vars=True)
    for key, tensor in own.items():
        sides_of(weights, key, tensor.shape)
    for key in weights:
        if key not in own and not is_constant(key):
            raise ValueError(f"{key}: expected none, found {_written(weights[key].shape)}")
    for key, tensor in own.items():  # a third of what `load_state_dict` takes
        tensor.data = weights[key].to(tensor.dtype)  # not copied: the tensors of a file, which are read for this
    return network


def unfilled(make: Callable[[], Network]) -> Network:
    """The network of `make`, to be `filled` and then evaluated: until then its weights are whatever their memory
    held."""
    with WithoutStartingWeights(), ExplicitMeshgrid():
        network = make()
    return network.eval().requires_grad_(False)


def of_groups(make: Callable[[int], Network], groups: Sequence[object]) -> Network:
    """A network of `make` with as many `layers` as there are `groups`, to be `filled`. Where what is said of the groups
    allows it, `make(2)` makes two of them, and the others are their copies, in turn (DAT shifts other windows in every
    second one): that takes a tenth of the time. The weights of copies are the first ones' until they are filled."""
    alike = all(group == groups[place % _KINDS] for place, group in enumerate(groups))
    network: Any = unfilled(lambda: make(min(_KINDS, len(groups)) if alike else len(groups)))
    for place in range(len(network.layers), len(groups)):
        network.layers.append(copy_module(network.layers[place % _KINDS], lambda weight: weight))
    with_shared_masks(network)  # copies came with their own
    with_shared_places(network)
    return network


def _written(sides: Sequence[int | None]) -> str:
    return "[" + ", ".join("any" if side is None else str(side) for side in sides) + "]"
