"""Which ids are ours where another pack is in the same ComfyUI, and what is said of it."""

from __future__ import annotations

import asyncio
import logging
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from cudaspeed.host import packs


class Ours:
    RELATIVE_PYTHON_MODULE = "custom_nodes.upscale-cudaspeed"


class Theirs:
    RELATIVE_PYTHON_MODULE = "custom_nodes.original"


class Cores:
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_upscale_model"


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """ComfyUI's nodes."""
    host, found = ModuleType("nodes"), {}
    host.NODE_CLASS_MAPPINGS = found  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nodes", host)
    return found


@pytest.fixture
def startup(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What ComfyUI's server calls when it starts."""
    calls: list[Any] = []
    monkeypatch.setattr(packs, "prompt_server", lambda: SimpleNamespace(app=SimpleNamespace(on_startup=calls)))
    return calls


def warned(startup: list[Any], caplog: pytest.LogCaptureFixture) -> list[str]:
    with caplog.at_level(logging.WARNING, "cudaspeed"):
        for call in startup:
            asyncio.run(call(None))
    return [record.getMessage() for record in caplog.records]


def test_who_comes_first_keeps_an_id_and_cores_are_nobodys(there: dict[str, Any]) -> None:
    there.update({"Old": Theirs, "UpscaleModelLoader": Cores})
    ours = {"New": Ours, "Old": Ours, "UpscaleModelLoader": Ours}
    assert [*packs.not_taken(ours)] == ["New", "UpscaleModelLoader"]
    assert not packs.runs("Old", Ours)
    there["New"] = Ours
    assert packs.runs("New", Ours)


def test_outside_comfyui_all_are_ours() -> None:
    assert packs.not_taken({"New": Ours}) == {"New": Ours}
    packs.warn_of_others(["New"], {})  # and nobody is told


@pytest.mark.parametrize("first", [True, False], ids=["theirs first", "theirs last"])
def test_one_warning_names_both_folders_and_what_runs(
    first: bool, there: dict[str, Any], startup: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    there.update({"Old": Theirs} if first else {})
    ours = packs.not_taken({"New": Ours, "Old": Ours})
    packs.warn_of_others(["New", "Old", "Older"], ours)
    there.update(ours)
    there.update({"Old": Theirs, "Older": Theirs})
    (told,) = warned(startup, caplog)
    assert str(packs._OURS) in told
    assert "host" in told, "theirs: where this class was written"
    assert "Old, Older" in told
    assert "Remove one" in told


def test_nothing_is_said_where_all_is_ours(
    there: dict[str, Any], startup: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    there.update({"UpscaleModelLoader": Cores})
    packs.warn_of_others(["New", "UpscaleModelLoader"], {"New": Ours, "UpscaleModelLoader": Ours})
    there["New"] = Ours
    assert warned(startup, caplog) == []
