"""What is told of a Ray that cannot be joined: that nobody answers, or which token differs."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from stand_in_ray import RayError

from cudaspeed.api.errors import BadOptionError
from cudaspeed.scaleout.cluster import Cluster, FarmOptions, joined

NEVER_RAN = """The actor died unexpectedly before finishing this task.
The actor is dead because all references to the actor were removed including lineage ref count.
The actor never ran - it was cancelled before it started running."""


@pytest.fixture(autouse=True)
def nobodys_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def listening() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


class RefusingRay:
    """A Ray that lets nobody in, and says of it as much as Ray does."""

    exceptions = SimpleNamespace(RayError=RayError)

    def init(self, address: str, **options: object) -> None:
        raise ConnectionError(f"Failed to connect to Ray cluster at {address}")

    def shutdown(self) -> None:
        pass


def told(address: str) -> str:
    with pytest.raises(BadOptionError) as raised, joined(RefusingRay(), FarmOptions(address=address)):
        pass
    return str(raised.value)


def test_where_nobody_listens_that_is_told_at_once_and_nothing_of_tokens(listening: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    assert f"nothing answers at 127.0.0.1:{free} (" in told(f"127.0.0.1:{free}")
    assert "nothing answers at 127.0.0.1:99999" in told("127.0.0.1:99999")
    assert "Failed to connect" in told(listening)


@pytest.mark.parametrize(
    ("variables", "what"),
    [
        ({}, "it may want a token, and this user has none"),
        ({"RAY_AUTH_TOKEN": "0" * 64, "RAY_AUTH_MODE": "token"}, "it may have another token than this user"),
        ({"RAY_AUTH_TOKEN": "0" * 64, "RAY_AUTH_MODE": "disabled"}, "RAY_AUTH_MODE=disabled keeps back here"),
    ],
)
def test_where_ray_listens_and_lets_nobody_in_it_is_the_token(
    variables: dict[str, str], what: str, listening: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert what in told(listening)


def test_workers_that_never_run_lack_the_token_that_this_user_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    joining, own = (Cluster(RefusingRay(), FarmOptions(address=address)) for address in ("10.0.0.1:6379", ""))
    assert "Ray at 10.0.0.1:6379 was started without the token" in joining.why(RayError(NEVER_RAN))
    assert joining.why(RayError("worker\ndied by SIGSEGV\n")) == "died by SIGSEGV"
    assert own.why(RayError(NEVER_RAN)).startswith("The actor never ran")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert joining.why(RayError(NEVER_RAN)).startswith("The actor never ran")
