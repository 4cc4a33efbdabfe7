"""The steps that a forward goes through, as far as a model's modules show them: what a run listens to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from ..kernels.dense_block import DenseBlock
from ..kernels.heartbeat import Listener, current_listener, heard_by
from ..kernels.winograd_modules import WinogradChain, WinogradDenseBlock, WinogradSpanBlock

# once for each of their `steps`
_BEAT_BY_THEMSELVES = (WinogradChain, WinogradDenseBlock, WinogradSpanBlock, DenseBlock)
_NEVER_CALLED = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def blocks_of(network: nn.Module, most: int) -> list[nn.Module]:
    """The modules of `network` that are called in a forward, down to its layers, or, where that would be more than
    `most`, to some depth above. Those within our kernels, which are not called, are left out."""
    found: list[nn.Module] = []
    level, seen = [network], {id(network)}
    while level and len(found) + len(level) <= most:
        found += level
        inner = (
            child for module in level if not isinstance(module, _BEAT_BY_THEMSELVES) for child in module.children()
        )
        level = [child for child in inner if id(child) not in seen and not seen.add(id(child))]
    return [module for module in found if not isinstance(module, (*_NEVER_CALLED, torch.jit.ScriptModule))]


def count_beats(blocks: Sequence[nn.Module]) -> int:
    """How many steps a forward through `blocks` is expected to tell of, each being called once."""
    ours = [block for block in blocks if isinstance(block, _BEAT_BY_THEMSELVES)]
    return len(blocks) + sum(len([*steps.children()]) for block in ours for steps in block.children())


@contextmanager
def listening(blocks: Sequence[nn.Module], listener: Listener) -> Iterator[None]:
    """Within it `listener` is told by this thread's forwards, and no other's, of every one of `blocks` that begins, and
    of the steps within our kernels. What it raises keeps the block from being computed. Afterwards no hook is left."""

    def begins(*_: Any) -> None:  # a function: a copy of the module has the same, not a copy of the listener
        if current_listener() == listener:  # another run may compute by the same module
            listener(1)

    with ExitStack() as undo:
        for block in blocks:
            undo.callback(block.register_forward_pre_hook(begins).remove)
        with heard_by(listener):
            yield
