"""What a model computes at every forward though it is always the same, computed once."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

# Larger results are left to be computed from smaller ones: the masks of all windows of a picture take a gigabyte.
_MOST_BYTES = 8 << 20


def fold_constants(traced: fx.GraphModule) -> None:
    """Replace, in place, what a traced forward computes without its input by the result.

    Window models build their attention masks so, from the size alone, and inductor's C++ for that does not compile
    (torch 2.11). `traced` must be functional: one operation never changes another's result.
    """
    known: dict[fx.Node, object] = {}
    for node in traced.graph.nodes:
        if node.op == "get_attr":
            known[node] = _attribute(traced, node.target)
        elif node.op == "call_function" and all(source in known for source in node.all_input_nodes):
            args, kwargs = map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*args, **kwargs)
    worth = {node for node, value in known.items() if isinstance(value, Tensor) and value.nbytes <= _MOST_BYTES}
    names: dict[str, str] = {}
    for node in [n for n in worth if n.op == "call_function" and any(user not in worth for user in n.users)]:
        value = known[node].contiguous().clone()
        content = hashlib.sha256(value.reshape(-1).view(torch.uint8).cpu().numpy()).hexdigest()
        name = names.setdefault(f"{content} {value.dtype} {tuple(value.shape)}", f"_folded_{len(names)}")
        traced.register_buffer(name, value)
        with traced.graph.inserting_before(node):
            node.replace_all_uses_with(traced.graph.get_attr(name))
    traced.graph.eliminate_dead_code()
    traced.recompile()


def _attribute(traced: fx.GraphModule, path: str) -> object:
    found: object = traced
    for name in path.split("."):
        found = getattr(found, name)
    return found
