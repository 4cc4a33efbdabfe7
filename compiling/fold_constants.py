"""What a model computes at every forward though it is always the same, computed once."""

from __future__ import annotations

import hashlib
import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from ..api.upstream import schema_of

# Larger results are left to be computed from smaller ones: the masks of all windows of a picture take a gigabyte.
_MOST_BYTES = 8 << 20


def fold_constants(traced: fx.GraphModule) -> None:
    """Replace, in place, what a traced forward computes without its input by the result.

    Window models build their attention masks so, from the size alone, and inductor's C++ for that does not compile
    (torch 2.11). What is random, or changed in place, is left to be computed at every forward.
    """
    known: dict[fx.Node, Any] = {}
    changing = _changing(traced.graph)
    for node in traced.graph.nodes:
        if node in changing:
            continue
        if node.op == "get_attr":
            known[node] = _attribute(traced, str(node.target))
        elif callable(node.target) and _is_operation(node) and all(source in known for source in node.all_input_nodes):
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


def _is_operation(node: fx.Node) -> bool:
    """Whether it calls one operation of torch's, or takes one of its results; not what calls a graph of its own."""
    return node.op == "call_function" and (hasattr(node.target, "tags") or node.target is operator.getitem)


def _changing(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that are not the same at every forward: random ones, checks, those that write into a value, that value,
    and all that it was made of, of which it may be a view. What is computed from them is no constant either."""
    calls = [node for node in graph.nodes if node.op == "call_function"]
    changing = {node for node in calls if node.is_impure() or _is_random(node)}
    written = [value for node in calls for value in _written_by(node)]
    while written:
        node = written.pop()
        if node not in changing:
            changing.add(node)
            written += node.all_input_nodes
    attributes = {node.target for node in changing if node.op == "get_attr"}  # which may have several nodes
    return changing | {node for node in graph.nodes if node.op == "get_attr" and node.target in attributes}


def _is_random(node: fx.Node) -> bool:
    """Asked beside `is_impure`, which in older torch knows of none that is."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _written_by(node: fx.Node) -> list[fx.Node]:
    """The values that an operation writes into, by its schema."""
    schema = schema_of(node.target)
    if schema is None or not schema.is_mutable:
        return []
    given = {argument.name: value for argument, value in zip(schema.arguments, node.args, strict=False)} | node.kwargs
    written = [given.get(argument.name) for argument in schema.arguments if argument.is_write]
    return [value for value in written if isinstance(value, fx.Node)]


def _attribute(traced: fx.GraphModule, path: str) -> object:
    found: object = traced
    for name in path.split("."):
        found = getattr(found, name)
    return found
