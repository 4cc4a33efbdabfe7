"""Whose nodes are whose, where the original pack is installed beside this one, or this one twice."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from .prompt_server import prompt_server

logger = logging.getLogger("cudaspeed")

_OURS = Path(__file__).absolute().parent.parent
_CUSTOM = "custom_nodes."


def not_taken(classes: Mapping[str, type]) -> dict[str, type]:
    """Those of `classes`, id -> class, that no other pack has brought by now: who comes first keeps an id. ComfyUI
    gives it to who comes last, and tells nobody."""
    return {name: kind for name, kind in classes.items() if _pack_of(_nodes_there().get(name)) is None}


def runs(name: str, kind: type) -> bool:
    """Whether `kind` is what ComfyUI runs as the node of that name."""
    return _nodes_there().get(name) is kind


def warn_of_others(names: Collection[str], ours: Mapping[str, type]) -> None:
    """Once ComfyUI has all its packs, say in one warning which other ones brought nodes of these names, and which of
    them run."""

    async def warn(_: object) -> None:
        there = _nodes_there()
        taken = {name: there[name] for name in names if name in there and there[name] is not ours.get(name)}
        folders = {name: folder for name, kind in taken.items() if (folder := _pack_of(kind))}
        for folder in sorted({*folders.values()}):
            theirs = ", ".join(sorted(name for name, its in folders.items() if its == folder))
            logger.warning(
                "two packs bring the same nodes: %s and %s. What runs of the second: %s. Remove one of the two folders "
                "and restart",
                _OURS,
                folder,
                theirs,
            )

    server = prompt_server()
    if server is not None:
        server.app.on_startup.append(warn)


def _nodes_there() -> Mapping[str, Any]:
    """ComfyUI's nodes by now, id -> class."""
    return getattr(sys.modules.get("nodes"), "NODE_CLASS_MAPPINGS", {})


def _pack_of(kind: Any) -> Path | None:
    """The folder, or the file, of the pack that a class came with; None for one of ComfyUI's own, and for none."""
    module = getattr(kind, "RELATIVE_PYTHON_MODULE", "")
    if not module.startswith(_CUSTOM):
        return None
    try:
        file = Path(inspect.getfile(kind))
    except (OSError, TypeError):  # made on the fly
        return Path(module)
    name = module.removeprefix(_CUSTOM)
    return next((path for path in (file, *file.parents) if name in (path.name, path.stem)), file.parent)
