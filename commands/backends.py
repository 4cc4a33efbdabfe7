"""`cudaspeed backends`: the engines that compile models: which are there, what for, how the others are installed."""

from __future__ import annotations

import argparse
from typing import Any

from ..backends.packages import PACKAGES, Package
from ..devices.nvidia_cards import NvidiaCard, nvidia_cards
from .console import Console
from .exit_codes import DONE

_PROCESSOR = "CPU"


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Of each engine a record or a line. Nothing is imported for it, torch no more than the engines, so that what is
    there but does not work is told where it is used."""
    cards = nvidia_cards()
    for package in PACKAGES:
        record = _describe(package, cards)
        console.tell(record, _line(record))
    return DONE


def _describe(package: Package, cards: list[NvidiaCard]) -> dict[str, Any]:
    """`devices` are those of this machine that it would compute on; `missing` is what has to be installed first."""
    devices = [_PROCESSOR] if package.knows("cpu", None) else []
    devices += [card.name for card in cards if package.knows("cuda", card.capability)]
    return {
        "engine": package.engine,
        "title": package.title,
        "version": package.version() or None,
        "devices": devices,
        "good_for": package.good_for,
        "missing": package.missing() or None,
        "install": package.install,
    }


def _line(record: dict[str, Any]) -> str:
    state = record["version"] or "not installed"
    use = f"for {', '.join(record['devices'])}" if record["devices"] else "for no device that is seen here"
    line = f"{record['engine']:<14} {state:<15} {use} ({record['good_for']})"
    return f"{line}  {record['install']}" if record["missing"] else line
