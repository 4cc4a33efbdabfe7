"""Workflows as files have them, and the prompts that the page makes of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACK = Path(__file__).absolute().parent.parent.parent
TEMPLATES = sorted((PACK / "example_workflows").glob("*.json"))
BLUEPRINTS = sorted((PACK / "subgraphs").glob("*.json"))
NOTES = {"Note", "MarkdownNote"}  # which only the page knows

_WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3", "IMAGECOMPARE"}

Specs = dict[str, tuple[Any, dict[str, Any]]]
"""Inputs of a node by name: type, or list of choices, and what else `/object_info` tells."""


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def nodes_of(graph: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Its nodes but for notes; of a graph or a subgraph."""
    return (node for node in graph["nodes"] if node["type"] not in NOTES)


def specs_of(told: dict[str, Any]) -> Specs:
    """Of what `INPUT_TYPES` or `/object_info` tells of a node's inputs."""
    every = {**told.get("required", {}), **told.get("optional", {})}
    return {name: (spec[0], spec[1] if len(spec) > 1 else {}) for name, spec in every.items()}


def is_widget(kind: Any) -> bool:
    return isinstance(kind, list) or kind in _WIDGETS


def choices_of(kind: Any, told: dict[str, Any]) -> list[Any] | None:
    """What a list offers; None for what is no list."""
    return kind if isinstance(kind, list) else told.get("options") if kind == "COMBO" else None


def values_of(node: dict[str, Any], specs: Specs) -> dict[str, Any]:
    """A node's widgets, name -> value, by their places. Behind a seed the page keeps what becomes of it after a run."""
    places: list[str | None] = []
    for name, (kind, told) in specs.items():
        if is_widget(kind):
            places += [name, None] if told.get("control_after_generate") else [name]
    values = zip(places, node.get("widgets_values", []), strict=False)
    return {name: value for name, value in values if name is not None}


def prompt_of(graph: dict[str, Any], inputs: dict[str, Specs]) -> dict[str, Any]:
    """The prompt of a workflow, by the inputs that its kinds of nodes have."""
    sources = {link[0]: [str(link[1]), link[2]] for link in graph["links"]}
    prompt = {}
    for node in nodes_of(graph):
        specs = inputs[node["type"]]
        made: dict[str, Any] = values_of(node, specs)
        if "compare_view" in specs:
            made.setdefault("compare_view", "")
        if specs.get("format", ("",))[0] == "COMFY_DYNAMICCOMBO_V3":  # SaveVideo's codec is within its format
            made["format.codec"] = made.pop("codec", "auto")
        made |= {slot["name"]: sources[slot["link"]] for slot in node["inputs"] if slot.get("link") is not None}
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": made}
    return prompt
