"""What can be known to be wrong with widgets before a prompt runs, so that nothing is computed in vain.

The host checks every input by its range or list. It does not where an input is named here, and it marks each one that
is, whichever is wrong. So only those are named that the wanted size is made of: they make sense together, or do not.
"""

from __future__ import annotations

from typing import Any

from ..api.errors import BadOptionError
from ..host.language import in_users_language
from .widgets import options_of


class ChecksSize:
    """A node whose wanted size is checked before it runs: a mixin."""

    @classmethod
    def VALIDATE_INPUTS(  # noqa: N802  # the host's name
        cls, scale_by: Any = None, target_width: Any = None, target_height: Any = None
    ) -> str | bool:
        """True, or what is wrong, in a sentence. What comes along a wire is not known yet: None."""
        given = {"scale_by": scale_by, "target_width": target_width, "target_height": target_height}
        try:
            options_of({name: value for name, value in given.items() if value is not None})
        except BadOptionError as error:
            return in_users_language(str(error))
        return True
