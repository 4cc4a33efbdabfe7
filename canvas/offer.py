"""What ComfyUI is offered: our nodes by their ids, the page's scripts and their routes, and old nodes as ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..host import packs
from ..host.old_workflows import Replacement, offer_replacement, on_prompt
from . import old_values
from .page_routes import offer_routes

_TODAYS = "UpscaleImageCUDAspeed"
_OF_THE_ORIGINAL_PACK = (old_values.FIXED, old_values.FOR_TWO_CARDS)
_FOR_TWO_CARDS = Replacement(
    old=old_values.FOR_TWO_CARDS,
    new=_TODAYS,
    widgets=old_values.WIDGETS_FOR_TWO_CARDS,
    kept=old_values.KEPT_FOR_TWO_CARDS,
    more=old_values.MORE_FOR_TWO_CARDS,
)


@dataclass(frozen=True)
class Offer:
    """`nodes` are classes by their ids; `web_directory` has the page's scripts, and is None where they are there."""

    nodes: dict[str, type]
    web_directory: str | None


def offer(nodes: Mapping[str, type], for_two_cards: type) -> Offer:
    """What is ours to bring of `nodes`, id -> class: an id that another pack has brought stays that pack's, and where
    this one is there twice the first copy serves alone. `for_two_cards` is the original pack's first node, for hosts
    that cannot replace it by today's."""
    mine = packs.not_taken(nodes)
    if _TODAYS not in mine:  # this pack is there twice
        packs.warn_of_others(nodes.keys() - _OF_THE_ORIGINAL_PACK, mine)
        return Offer(mine, None)
    if not offer_replacement(_FOR_TWO_CARDS):
        mine |= packs.not_taken({old_values.FOR_TWO_CARDS: for_two_cards})
    packs.warn_of_others({*nodes, *_OF_THE_ORIGINAL_PACK}, mine)
    fixed = nodes[old_values.FIXED]

    def change_old_nodes(prompt: dict[str, Any]) -> None:
        if packs.runs(old_values.FIXED, fixed):  # and not the original pack's own
            old_values.change_old_nodes(prompt)

    on_prompt(change_old_nodes)
    offer_routes()
    return Offer(mine, "./web")
