"""What can be known to be wrong with widgets before a prompt runs, so that nothing is computed in vain.

The host does not check inputs by itself that are named here, and shows what is wrong at each of them. So only those
are named whose values depend on each other; it checks the others by their ranges and lists.
"""

from __future__ import annotations

from typing import Any

from ..api.errors import BadOptionError
from .widgets import options_of


class ChecksWidgets:
    """A node whose sizes are checked before it runs: a mixin."""

    @classmethod
    def VALIDATE_INPUTS(  # noqa: N802  # the host's name, and its way to say which inputs
        cls,
        tile_size: Any = None,
        overlap: Any = None,
        scale_by: Any = None,
        target_width: Any = None,
        target_height: Any = None,
    ) -> str | bool:
        """True, or what is wrong, in a sentence. What comes along a wire is not known yet: None."""
        given = {
            "tile_size": tile_size,
            "overlap": overlap,
            "scale_by": scale_by,
            "target_width": target_width,
            "target_height": target_height,
        }
        return whats_wrong({name: value for name, value in given.items() if value is not None}) or True


def whats_wrong(widgets: dict[str, Any]) -> str | None:
    """A sentence on the first of the widgets, name -> value, that cannot be as it is; None where all can. Those that
    are missing can be anything."""
    try:
        options = options_of(widgets)
    except BadOptionError as error:
        return str(error)
    if options.tile and options.overlap >= options.tile:
        return (
            f"overlap is {options.overlap} and tile size {options.tile}; the overlap must be smaller than the tile. "
            f"Choose an overlap below {options.tile} or a larger tile, or 0 for automatic"
        )
    return None
