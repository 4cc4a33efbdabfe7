"""Ray, which is an extra: imported when a farm is run, and no earlier."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

from ..api.errors import MissingLibraryError
from ..api.installed import installed_version

LEAST = (2, 58)
_PATIENCE = "45"  # seconds without the head, after which Ray ends who asks it for something; 60 by itself


def load_ray(alone: bool) -> Any:
    """Ray's module; `alone`: for one of this machine's own, else for one to join, by the token that this user has, if
    any. Raises `MissingLibraryError` where it is not installed, or
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
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", _PATIENCE)
    if alone:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    elif has_token():  # which `ray start` takes without being asked, and a program that joins does not
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        return import_module("ray")
    except ImportError as error:
        raise MissingLibraryError(f"Ray {found} cannot be imported ({error}); {how}") from error


def has_token() -> bool:
    """Whether Ray would find one: https://docs.ray.io/en/latest/ray-security/token-auth.html"""
    named = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return named or (Path.home() / ".ray" / "auth_token").is_file()
