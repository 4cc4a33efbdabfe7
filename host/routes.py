"""Our routes on ComfyUI's own server, for the scripts of its page (`web/js`), and what other requests tell us.

Its checks hold for them: where a page of somebody else's asks, it answers 403 (`create_origin_only_middleware`, 0.33).
What changes something is a POST whose body is a JSON object, which no form of another page can send. Nothing of a
request is handed on: no name and no path of a page's reaches the file system.
"""

# pyright: reportMissingImports=false
# ComfyUI's modules are there inside ComfyUI only, and no package brings them.

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from threading import Thread
from typing import Any, Literal

from ..api.errors import first_line
from .prompt_server import prompt_server

logger = logging.getLogger("cudaspeed")

Answer = Callable[[], dict[str, Any]]
"""What a route answers, as JSON has it; an `OSError` is told to the page."""

_MOST_BYTES = 1024  # of a body
_FREE = ("/free", "/api/free")


def offer(method: Literal["GET", "POST"], path: str, answer: Answer) -> None:
    """Have `path`, and "/api" before it, answered by `answer`, on a thread that begins and ends with the request: the
    server does not wait for a driver or a disk. Outside ComfyUI, and where another copy of the pack does it already,
    nothing happens."""
    routes = getattr(prompt_server(), "routes", None)
    if routes is None or any((route.method, route.path) == (method, path) for route in routes):
        return
    routes.route(method, path)(_handler(answer))


def when_unloaded(tell: Callable[[], None]) -> None:
    """Have `tell` called, on the server's thread, where its user asks for models to be unloaded (`POST /free`), just
    before ComfyUI does so. Outside ComfyUI nothing happens."""
    signal = getattr(getattr(prompt_server(), "app", None), "on_response_prepare", None)
    if signal is not None:
        signal.append(_listener(tell))


def _handler(answer: Answer) -> Callable[[Any], Awaitable[Any]]:
    from aiohttp import web

    async def handle(request: Any) -> Any:
        if request.method == "POST" and not await _has_json_object(request):
            return web.json_response({"error": "the body must be a JSON object"}, status=400)
        status, told = 200, {}
        try:
            told = await _on_a_thread(answer)
        except OSError as error:
            status, told = 503, {"error": first_line(error)}
        except Exception as error:  # whatever it is, the page goes on
            logger.debug("%s is not answered", request.path, exc_info=True)
            status, told = 500, {"error": f"{type(error).__name__}: {first_line(error)}"}
        return web.json_response(told, status=status, headers={"Cache-Control": "no-store"})

    return handle


def _listener(tell: Callable[[], None]) -> Callable[[Any, Any], Awaitable[None]]:
    async def listen(request: Any, response: Any) -> None:
        if request.method != "POST" or request.path not in _FREE or response.status != 200:
            return
        try:
            asked = await request.json()  # which the server has read before
            if asked.get("unload_models") or asked.get("free_memory"):
                tell()
        except Exception as error:  # it is ComfyUI's answer, which must not fail by us
            logger.debug("not noticed: %s", first_line(error))

    return listen


async def _has_json_object(request: Any) -> bool:
    if request.content_type != "application/json" or (request.content_length or _MOST_BYTES + 1) > _MOST_BYTES:
        return False
    if "Content-Encoding" in request.headers:  # packed, whose length tells nothing, or what says so and is not
        return False
    try:
        return isinstance(await request.json(), dict)
    except (ValueError, LookupError, RecursionError):  # LookupError: a charset that nobody knows
        return False


async def _on_a_thread(work: Answer) -> dict[str, Any]:
    done: Future[dict[str, Any]] = Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # goes on where it is waited for
            done.set_exception(error)

    Thread(target=run, name="cudaspeed answer", daemon=True).start()
    return await asyncio.wrap_future(done)
