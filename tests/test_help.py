"""The help pages of the nodes: there in both languages, whole, and of nothing that there is not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import catalogue
import pytest

from cudaspeed import nodes

locales = catalogue.locales()
HELP = locales.HELP
each_kind = pytest.mark.parametrize("kind", nodes.NODE_CLASS_MAPPINGS)
each_language = pytest.mark.parametrize("language", ["en", "zh"])


def page(kind: str, language: str) -> str:
    """What the page asks for of a node."""
    return (HELP / kind / f"{language}.md").read_text(encoding="utf-8")


def inputs(kind: str) -> dict[str, tuple[Any, ...]]:
    groups = nodes.NODE_CLASS_MAPPINGS[kind].INPUT_TYPES()
    return {**groups.get("required", {}), **groups.get("optional", {})}


def items(text: str) -> Iterator[tuple[str, str]]:
    """The items of a page's lists: what one is about, and what it says."""
    for item in re.findall(r"^- (.*?)(?=^- |^$|\Z)", text, re.MULTILINE | re.DOTALL):
        about, _, told = item.replace("：", ":").partition(":")
        yield about, told


@each_kind
@each_language
def test_the_page_names_every_input_as_the_node_does(kind: str, language: str) -> None:
    names = {name: locales.read(language, "nodeDefs")[f"{kind}.inputs.{name}.name"] for name in inputs(kind)}
    said = " ".join(about for about, _ in items(page(kind, language)))
    wanted = {name: f"**{shown}**" if shown == name else f"**{shown}**（`{name}`" for name, shown in names.items()}
    assert not {name for name, text in wanted.items() if text not in said}


@each_kind
@each_language
def test_the_page_is_of_no_input_or_output_that_there_is_not(kind: str, language: str) -> None:
    node = nodes.NODE_CLASS_MAPPINGS[kind]
    known = {*inputs(kind), *getattr(node, "RETURN_NAMES", ())}
    abouts = " ".join(about for about, _ in items(page(kind, language)))
    assert {*re.findall(r"`([a-z_]+)`" if language == "zh" else r"\*\*([^*]+)\*\*", abouts)} <= known


@each_kind
@each_language
def test_the_page_names_all_choices_of_a_list_and_no_other(kind: str, language: str) -> None:
    for about, told in items(page(kind, language)):
        for name in re.findall(r"[a-z_]+", about):
            choices = inputs(kind)[name][0] if name in inputs(kind) else None
            if isinstance(choices, list) and name != "model_name":
                assert {*re.findall(r"`([^`]+)`", told)} == {*choices}, name


@each_kind
def test_both_languages_say_it_in_the_same_order(kind: str) -> None:
    orders = [
        [re.findall(r"[a-z_]{3,}", about) for about, _ in items(page(kind, language))] for language in ("en", "zh")
    ]
    assert [set(names) - {"advanced"} for names in orders[0]] == [set(names) for names in orders[1]]


@each_language
def test_the_pages_title_is_the_nodes_name(language: str) -> None:
    words = locales.read(language, "nodeDefs")
    for kind in nodes.NODE_CLASS_MAPPINGS:
        assert page(kind, language).startswith(f"# {words[f'{kind}.display_name']}\n")


@each_language
def test_the_page_of_the_original_packs_node_is_that_of_ours(language: str) -> None:
    """But for the head: the node is the same."""
    ours, theirs = (
        page(kind, language).split("\n## ", 1)[1]
        for kind in ("UpscaleImageCUDAspeed", "ImageUpscaleWithModelCUDAspeedFixed")
    )
    assert ours == theirs


def test_no_page_is_left_of_a_node_that_is_gone() -> None:
    assert {path.stem if path.suffix else path.name for path in HELP.iterdir()} == {*nodes.NODE_CLASS_MAPPINGS}


@each_kind
def test_folded_settings_stand_under_a_heading_of_their_own(kind: str) -> None:
    folded = {name for name, widget in inputs(kind).items() if len(widget) > 1 and widget[1].get("advanced")}
    _, *below = page(kind, "en").split("\n## Advanced settings\n")
    there = {name for about, _ in items("".join(below)) for name in re.findall(r"\*\*([a-z_]+)\*\*", about)}
    marked = {
        name
        for about, _ in items(page(kind, "en"))
        if "(advanced)" in about
        for name in re.findall(r"[a-z]+_[a-z]+", about)
    }
    assert there | marked == folded
