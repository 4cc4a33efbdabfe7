"""The layers that a model consists of, by kind, and how many pixels each computes: read off its modules, not traced.

Modules are kept in the order in which they are mostly computed, and say themselves where pixels become more or fewer.
Where a model enlarges between them, or keeps its levels in another order, layers count as larger than they are.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import nn

from . import transformer_block
from .transformer_example import Shape

LayerName = Literal["conv3x3", "pointwise", "attention", "block"]
_LAST_CONVOLUTIONS = 4  # those that a model without modules for it enlarges in front of
# The names under which spandrel's architectures keep what attends within windows, in the modules that attend.
_WINDOWS = ("window_size", "split_size", "win_size", "ws")
_HEADS = ("num_heads", "nh")
_LARGER_WINDOW = "overlap_win_size"  # HAT's, of the keys


@dataclass(frozen=True, order=True)
class LayerKind:
    """Layers that take equally long for a pixel.

    `sizes` of "conv3x3" (stride 1, one group) and "pointwise" (1x1 and linear): channels in and out. Of "attention" in
    windows: queries in one, keys in one, channels of a head, heads. Of a transformer "block", as a whole, that
    `transformer_block.suits`: a `Shape` without its shift.
    """

    name: LayerName
    sizes: tuple[int, ...]

    @property
    def multiplications(self) -> int:
        """For one pixel: of attention, one query."""
        if self.name == "attention":
            return 2 * math.prod(self.sizes[1:])
        if self.name == "block":
            shape = Shape(*self.sizes, shift=0)
            return shape.multiplications // shape.window**2
        return math.prod(self.sizes) * (9 if self.name == "conv3x3" else 1)

    @property
    def attended(self) -> tuple[int, int] | None:
        """Keys in a window and channels of a head, of what attends; None for others."""
        if self.name == "attention":
            return self.sizes[1], self.sizes[2]
        if self.name == "block":
            shape = Shape(*self.sizes, shift=0)
            return shape.window**2, shape.channels // shape.heads
        return None


class Window(NamedTuple):
    """Queries, keys and heads of a window that is attended within."""

    queries: int
    keys: int
    heads: int


class Place(NamedTuple):
    """A module, and how many pixels it has for one of the model's input: those it is given, and those it makes."""

    module: nn.Module
    before: float
    after: float


def places(model: nn.Module, scale: int) -> list[Place]:
    """The modules of a model that enlarges its input by `scale`, in the order in which it keeps them."""
    begin, most = 1.0 / (int(getattr(model, "shuffle_factor", 1) or 1)) ** 2, float(scale**2)
    for regains in (False, True):
        found = _walked(model, begin, most, regains)
        if found[0].after >= most:
            return found
    # enlarged by a function, of which no module tells: behind the last but some convolutions
    last = [i for i, place in enumerate(found) if isinstance(place.module, nn.Conv2d)][-_LAST_CONVOLUTIONS:]
    for i in last:
        found[i] = Place(found[i].module, float(scale**2), float(scale**2))
    return found


def layers_of(model: nn.Module, scale: int) -> Mapping[LayerKind, float]:
    """Pixels that layers of each kind compute for a pixel of the input, of all layers of the kind together. A block
    counts as a whole, but for HAT's convolutions beside it.

    Left out is what takes as long in every way to compute the model that there is: depthwise and strided convolutions,
    norms, activations.
    """
    found: Counter[LayerKind] = Counter()
    counted: set[nn.Module] = set()
    for module, _, after in places(model, scale):
        if module in counted:
            continue
        kind = _kind(module)
        if kind and kind.name == "block":
            counted.update(transformer_block.parts_of(module))
        if kind and all(kind.sizes):  # some have layers without values (CRAFT)
            found[kind] += after  # type: ignore[assignment]  # a counter of shares
    return found


def window_of(module: nn.Module) -> Window | None:
    """The window of a module that attends within windows, by scores of all queries and keys; None for others."""
    window, softmax = _told_window(module), getattr(module, "softmax", None)
    if window is None:
        return None
    if isinstance(softmax, nn.Softmax) and softmax.dim != -1:  # DCTLSA makes no scores
        return None
    # what holds a module with a window of its own only hands its numbers on
    inner = (part for part in module.modules() if part is not module)
    return None if any(map(_told_window, inner)) else window


def _told_window(module: nn.Module) -> Window | None:
    told = vars(module)
    heads = next((told[name] for name in _HEADS if isinstance(told.get(name), int)), 0)
    size = next((told[name] for name in _WINDOWS if name in told), None)
    if not heads or size is None:
        return None
    sides = [*size] if isinstance(size, Iterable) else [size, size]
    if not all(isinstance(side, int) and side > 0 for side in sides):
        return None
    return Window(math.prod(sides), int(told.get(_LARGER_WINDOW, 0)) ** 2 or math.prod(sides), heads)


def _walked(module: nn.Module, before: float, most: float, regains: bool) -> list[Place]:
    """A module that is given `before` pixels, in front of those it consists of. `regains`: what has made fewer of them
    makes, by a function, as many in the end as there were (the gates of ESA do)."""
    inner: list[Place] = []
    after = before
    for child in _computed(module):
        part = _walked(child, after, most, regains)
        inner += part
        after = part[0].after
    after = max(after, before) if regains and inner else min(after * _growth(module), most)
    return [Place(module, before, after), *inner]


def _computed(module: nn.Module) -> Iterable[nn.Module]:
    """The modules it consists of, but of SPAN's folded convolutions only what they are folded to."""
    children = dict(module.named_children())
    return [children["eval_conv"]] if "eval_conv" in children else children.values()


def _growth(module: nn.Module) -> float:
    """How many pixels it makes of one."""
    if isinstance(module, nn.PixelShuffle):
        return module.upscale_factor**2
    if isinstance(module, nn.PixelUnshuffle):
        return 1 / module.downscale_factor**2
    if isinstance(module, nn.ConvTranspose2d):
        return math.prod(module.stride)
    if isinstance(module, nn.Conv2d):
        return 1 / math.prod(module.stride)
    if isinstance(module, nn.Upsample) and module.scale_factor:
        factor = module.scale_factor
        return math.prod(factor) if isinstance(factor, tuple) else float(factor) ** 2
    return 1.0


def _kind(module: nn.Module) -> LayerKind | None:
    if isinstance(module, nn.Linear):
        return LayerKind("pointwise", (module.in_features, module.out_features))
    if isinstance(module, nn.Conv2d):
        sizes = (module.in_channels, module.out_channels)
        if module.groups != 1 or module.stride != (1, 1) or module.dilation != (1, 1):
            return None
        name: LayerName | None = {(3, 3): "conv3x3", (1, 1): "pointwise"}.get(module.kernel_size)  # type: ignore[assignment]
        return LayerKind(name, sizes) if name else None
    if transformer_block.suits(module):
        return LayerKind("block", transformer_block.shape_of(module)[:-1])
    window, channels = window_of(module), vars(module).get("dim")
    if window is None or not isinstance(channels, int):
        return None
    return LayerKind("attention", (window.queries, window.keys, max(1, channels // window.heads), window.heads))
