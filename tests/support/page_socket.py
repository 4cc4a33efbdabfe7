"""What a server sends over a websocket (RFC 6455), heard by a thread: as much of it as ComfyUI needs, no library."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from base64 import b64encode

_TEXT, _BINARY = 1, 2


class WebSocket:
    """`heard` is (when, frame) of everything since it was opened; a text's frame is str, any other's bytes."""

    def __init__(self, port: int, path: str) -> None:
        self.heard: list[tuple[float, str | bytes]] = []
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        key = b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self._stream = self._socket.makefile("rb")
        assert b" 101 " in self._stream.readline()
        while self._stream.readline() != b"\r\n":
            pass
        self._socket.settimeout(None)
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _listen(self) -> None:
        try:
            while True:
                kind, size = self._stream.read(2)
                size &= 127
                if size > 125:
                    (size,) = struct.unpack(
                        *((">H", self._stream.read(2)) if size == 126 else (">Q", self._stream.read(8)))
                    )
                content = self._stream.read(size)
                if kind & 15 in (_TEXT, _BINARY):
                    self.heard.append((time.monotonic(), content.decode() if kind & 15 == _TEXT else content))
        except (OSError, ValueError):  # it was closed
            return
