"""Why a Ray that is to be joined does not let this machine in. Ray itself says of a token that differs only that it
cannot be reached, or that no worker ever ran."""

from __future__ import annotations

import os
import socket

from ..api.errors import BadOptionError
from .ray_library import has_token

_PATIENCE = 5.0  # seconds; Ray's own is minutes
_NEVER_RAN = "never ran"  # in what Ray says of an actor that was ended before it began
_WHERE = "~/.ray/auth_token, or RAY_AUTH_TOKEN"


def check_listening(address: str) -> None:
    """Raise `BadOptionError` where nobody does at "host:port"; of other ways to name a Ray nothing is known."""
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadOptionError(
            f"nothing answers at {address} ({reason}); start Ray there (ray start --head), and let this machine "
            "through its firewall"
        ) from error


def why_not_let_in(told: str) -> str:
    """What to do where a Ray that listens cannot be joined, and `told` no more than that: one with a token ends
    connections without it."""
    if os.environ.get("RAY_AUTH_MODE") == "disabled" and has_token():
        return f"{told}; it may want a token, which RAY_AUTH_MODE=disabled keeps back here: unset that"
    if has_token():
        return f"{told}; it may have another token than this user: copy that of its machines here ({_WHERE})"
    return f"{told}; it may want a token, and this user has none: copy that of its machines here ({_WHERE})"


def why_workers_never_run(told: str, address: str) -> str:
    """What to do where a worker ended as Ray `told`, in that it was joined at `address`; "" where that tells by itself.
    A Ray without a token takes calls from who has one, and its own are refused here."""
    if not address or _NEVER_RAN not in told or os.environ.get("RAY_AUTH_MODE") != "token":
        return ""
    return (
        f"Ray at {address} was started without the token that this user has ({_WHERE}), and may not call back; start "
        "it again with that token, or set RAY_AUTH_MODE=disabled here"
    )
