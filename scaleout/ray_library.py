"""Ray, which is an extra: imported when a farm is run, and no earlier."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from ..api.errors import MissingLibraryError
from ..api.installed import installed_version

LEAST = (2, 58)


def load_ray(alone: bool) -> Any:
    """Ray's module; `alone`: for one of this machine's own. Raises `MissingLibraryError` where it is not installed, or
    older than what was tried."""
    found, least = installed_version("ray"), ".".join(map(str, LEAST))
    how = f'pip install "ray>={least}" installs it'
    if not found:
        raise MissingLibraryError(f"a farm needs Ray, which is not installed; {how}")
    if tuple(int(part) for part in found.split(".")[:2] if part.isdigit()) < LEAST:
        raise MissingLibraryError(f"a farm needs Ray {least} or newer, and {found} is installed; {how}")
    # Ray is to send no statistics anywhere, and alone to listen on 127.0.0.1 only: it takes the address that other
    # machines see in its place, unless this, which it has for Windows and macOS, is 0.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if alone:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        return import_module("ray")
    except ImportError as error:
        raise MissingLibraryError(f"Ray {found} cannot be imported ({error}); {how}") from error
