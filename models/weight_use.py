"""Which of a model's weights are read while which of its modules compute: told by one small forward.

Weights that are to come and go with a module must not be read by others, but a parent may read its child's, and a block
hand on a view of its own. Both are seen here: reads of a module's attributes, and what torch's operations are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..api.model_info import Forward, ModelInfo
from ..api.upstream import TorchDispatchMode, own_tensors, put_own_tensors, tree_leaves, version_of

_SIDE = 32  # pixels of the picture, where the model takes one as small


@dataclass
class WeightUse:
    """What a forward did; modules and weights by `id`.

    `within`: the modules that computed at every read of a weight; those that are not in it were never read.
    `around`: those that computed at some call of a module, itself not; modules that are not in it were never called.
    `calls`: modules in the order in which they began. `unfit`: weights that the forward replaced or wrote to, and
    those that share their memory.
    """

    within: dict[int, frozenset[int]] = field(default_factory=dict)
    around: dict[int, frozenset[int]] = field(default_factory=dict)
    calls: list[int] = field(default_factory=list)
    unfit: set[int] = field(default_factory=set)


def use_of_weights(module: nn.Module, forward: Forward, info: ModelInfo) -> WeightUse:
    """What `forward`, which is computed by `module` on a CPU, does for a tiny picture. Raises what the model raises."""
    alignment = info.alignment
    side = -(-max(_SIDE, info.minimum) // alignment) * alignment
    picture = torch.rand(1, info.in_channels, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(False), torch.no_grad():
        before = [(tensor, *_state(tensor)) for tensor in weights_of(module)]
        watch = _Watch(module)
        with watch.on(), watch:
            forward(picture)
        use, held = watch.use, {id(tensor) for tensor in weights_of(module)}
        use.unfit |= {id(tensor) for tensor, *state in before if id(tensor) not in held or _state(tensor) != state}
        # left by a forward, and nothing counts what is written to them
        use.unfit |= {id(tensor) for tensor, *_ in before if tensor.is_inference()}
    return use


def weights_of(module: nn.Module) -> list[Tensor]:
    """The parameters and buffers of `module` and of those in it, each once, in the order in which they are kept."""
    held = (tensor for part in module.modules() for tensors in own_tensors(part) for tensor in tensors.values())
    return list({id(tensor): tensor for tensor in held if tensor is not None}.values())


def _state(tensor: Tensor) -> list[object]:
    """What is another one where `tensor` was written to, or has been given other memory."""
    return [None if tensor.is_inference() else version_of(tensor), tensor.untyped_storage()]


class _Watch(TorchDispatchMode):
    """Within it, and `on`, everything that this thread's operations are given counts as read."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.use = WeightUse()
        self._module, self._computing, self._active = module, [], frozenset()
        self._by_storage: dict[torch.UntypedStorage, list[Tensor]] = {}
        for tensor in weights_of(module):
            self._by_storage.setdefault(tensor.untyped_storage(), []).append(tensor)
        for sharing in self._by_storage.values():
            if len(sharing) > 1:
                self.use.unfit |= set(map(id, sharing))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                for tensor in self._by_storage.get(leaf.untyped_storage(), ()):
                    self._read(tensor)
        return func(*args, **(kwargs or {}))

    def on(self) -> ExitStack:
        """Within it modules tell when they begin and end, and which of their weights are asked for."""
        undo = ExitStack()
        for part in self._module.modules():
            if isinstance(part, torch.jit.ScriptModule):  # which takes no other dictionaries
                self.use.unfit |= set(map(id, weights_of(part)))
                continue
            undo.callback(part.register_forward_pre_hook(partial(self._begins, id(part))).remove)
            undo.callback(part.register_forward_hook(self._ends).remove)
            held = own_tensors(part)
            put_own_tensors(part, *(_Watched(tensors, self._read) for tensors in held))
            undo.callback(_put_back, part, held)
        return undo

    def _begins(self, module: int, *_: Any) -> None:
        self.use.calls.append(module)
        self.use.around[module] = self.use.around.get(module, frozenset()) | self._active
        self._stand([*self._computing, module])

    def _ends(self, *_: Any) -> None:
        self._stand(self._computing[:-1])

    def _stand(self, computing: list[int]) -> None:
        self._computing, self._active = computing, frozenset(computing)

    def _read(self, tensor: Tensor | None) -> None:
        if tensor is not None:
            self.use.within[id(tensor)] = self.use.within.get(id(tensor), self._active) & self._active


class _Watched(dict[str, Any]):
    """A module's parameters or buffers, which tells `read` of those that are asked for."""

    def __init__(self, tensors: dict[str, Any], read: Callable[[Tensor | None], None]) -> None:
        super().__init__(tensors)
        self._read = read

    def __getitem__(self, name: str) -> Any:
        tensor = super().__getitem__(name)
        self._read(tensor)
        return tensor

    def items(self) -> Iterator[tuple[str, Any]]:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        for name, tensor in super().items():
            self._read(tensor)
            yield name, tensor


def _put_back(module: nn.Module, held: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """The dictionaries that it had, with what the forward has put into the others."""
    for tensors, watched in zip(held, own_tensors(module), strict=True):
        tensors.clear()
        dict.update(tensors, watched)
    put_own_tensors(module, *held)
