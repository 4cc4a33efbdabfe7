"""Our routes on a stand-in for ComfyUI's server: aiohttp's routes and requests, in a few lines."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from cudaspeed.host import prompt_server, routes


class Table(list):
    """A `RouteTableDef`."""

    def route(self, method: str, path: str) -> Any:
        def keep(handler: Any) -> Any:
            self.append(SimpleNamespace(method=method, path=path, handler=handler))
            return handler

        return keep

    def ask(self, method: str, path: str, **request: Any) -> tuple[int, Any]:
        (handler,) = (route.handler for route in self if (route.method, route.path) == (method, path))
        return asyncio.run(handler(Request(method, path, **request)))


class Request:
    charset = "utf-8"

    def __init__(self, method: str, path: str, body: str = "", content_type: str = "application/json") -> None:
        self.method, self.path, self.content_type, self._body = method, path, content_type, body
        self.content_length: int | None = len(body) if body else None
        self.headers: dict[str, str] = {}

    async def json(self) -> Any:
        return json.loads(self._body.encode().decode(self.charset))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    web = ModuleType("aiohttp.web")
    web.json_response = lambda told, status=200, headers=None: (status, told)  # type: ignore[attr-defined]
    aiohttp = ModuleType("aiohttp")
    aiohttp.web = web  # type: ignore[attr-defined]
    instance = SimpleNamespace(routes=Table(), app=SimpleNamespace(on_response_prepare=[]))
    for name, module in {
        "aiohttp": aiohttp,
        "aiohttp.web": web,
        "server": SimpleNamespace(PromptServer=SimpleNamespace(instance=instance)),
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(prompt_server, "inside_comfyui", lambda: True)
    return instance


def test_a_route_answers_on_a_thread_that_ends_with_it(server) -> None:
    threads = []

    def answer() -> dict[str, Any]:
        threads.append(threading.current_thread())
        return {"cpu": 0.5}

    routes.offer("GET", "/cudaspeed/monitor", answer)
    assert server.routes.ask("GET", "/cudaspeed/monitor") == (200, {"cpu": 0.5})
    assert threads[0] is not threading.current_thread()
    threads[0].join(30)
    assert not threads[0].is_alive()


def test_errors_are_told_and_stay_with_the_request(server) -> None:
    def full() -> dict[str, Any]:
        raise OSError("the disk is full")

    def broken() -> dict[str, Any]:
        raise KeyError("nobody knows")

    routes.offer("GET", "/full", full)
    routes.offer("GET", "/broken", broken)
    assert server.routes.ask("GET", "/full") == (503, {"error": "the disk is full"})
    status, told = server.routes.ask("GET", "/broken")
    assert status == 500 and "KeyError" in told["error"]


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"body": "{}", "content_type": "text/plain"},
        {"body": "{}", "content_type": "application/x-www-form-urlencoded"},
        {"body": "{"},
        {"body": "[]"},
        {"body": "[" * 900},
        {"body": '{"path": "' + "x" * 2000 + '"}'},
    ],
)
def test_a_change_wants_a_json_object(server, request_: dict[str, str]) -> None:
    changed = []
    routes.offer("POST", "/clear", lambda: {"changed": changed.append(1)})
    assert server.routes.ask("POST", "/clear", **request_)[0] == 400
    assert not changed
    assert server.routes.ask("POST", "/clear", body="{}")[0] == 200
    assert changed


def test_a_charset_that_nobody_knows_is_no_json(server, monkeypatch: pytest.MonkeyPatch) -> None:
    routes.offer("POST", "/clear", dict)
    for charset in ("klingon", "hex"):
        monkeypatch.setattr(Request, "charset", charset)
        assert server.routes.ask("POST", "/clear", body="{}")[0] == 400


def test_what_is_packed_is_not_unpacked(server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unpack(request: Request) -> None:
        raise OSError("aiohttp's error for what cannot be unpacked")

    routes.offer("POST", "/clear", dict)
    monkeypatch.setattr(Request, "json", unpack)
    request = Request("POST", "/clear", "{}")
    request.headers["Content-Encoding"] = "gzip"
    (route,) = server.routes
    assert asyncio.run(route.handler(request))[0] == 400


def test_a_second_copy_of_the_pack_leaves_the_first_ones_routes(server) -> None:
    """Two of one path would keep the server from starting."""
    for told in ("first", "second"):
        routes.offer("GET", "/cudaspeed/monitor", lambda told=told: {"by": told})
    assert server.routes.ask("GET", "/cudaspeed/monitor") == (200, {"by": "first"})


def hear(server: SimpleNamespace, request: Request, status: int = 200) -> None:
    (listen,) = server.app.on_response_prepare
    asyncio.run(listen(request, SimpleNamespace(status=status)))


def test_unload_models_is_heard(server) -> None:
    heard: list[int] = []
    routes.when_unloaded(lambda: heard.append(1))
    for path in ("/free", "/api/free"):
        hear(server, Request("POST", path, '{"unload_models": true}'))
        hear(server, Request("POST", path, '{"free_memory": true}'))
    assert len(heard) == 4
    hear(server, Request("POST", "/free", '{"unload_models": false}'))
    hear(server, Request("POST", "/free", "{}"))
    hear(server, Request("POST", "/free", '{"unload_models": true}'), status=403)
    hear(server, Request("POST", "/prompt", '{"unload_models": true}'))
    hear(server, Request("GET", "/free", '{"unload_models": true}'))
    hear(server, Request("POST", "/free", "[]"))
    hear(server, Request("POST", "/free", "no JSON"))
    assert len(heard) == 4


def test_the_hosts_answer_does_not_fail_by_us(server) -> None:
    def unwell() -> None:
        raise RuntimeError("unwell")

    routes.when_unloaded(unwell)
    hear(server, Request("POST", "/free", '{"unload_models": true}'))


@pytest.mark.parametrize("instance", [None, SimpleNamespace()])
def test_without_a_server_nothing_is_offered(server, monkeypatch: pytest.MonkeyPatch, instance: Any) -> None:
    for module in (SimpleNamespace(PromptServer=SimpleNamespace(instance=instance)), SimpleNamespace(), None):
        monkeypatch.setitem(sys.modules, "server", module)
        routes.offer("GET", "/cudaspeed/monitor", dict)
        routes.when_unloaded(lambda: None)
    assert server.routes == [] and server.app.on_response_prepare == []


def test_outside_comfyui_nothing_is_offered(server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_server, "inside_comfyui", lambda: False)
    routes.offer("GET", "/cudaspeed/monitor", dict)
    assert server.routes == []
