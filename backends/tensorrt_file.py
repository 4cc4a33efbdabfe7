"""One engine of TensorRT's as a file: a line that says what follows, a line of JSON, the engine's bytes.

cudaspeed TensorRT engine 1
{"library": "tensorrt", "version": "11.4.0", "card": "...", "profiles": [...], "plan": 123, "kernels": 0}
<plan><kernels>
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .errors import CompileError
from .tensorrt_profiles import Profile, Shape

_MARK = b"cudaspeed TensorRT engine 1\n"
_LONGEST_HEADER = 1 << 16  # bytes


@dataclass(frozen=True)
class EngineFile:
    """`plan` is what TensorRT serialised, by `library` ("tensorrt", "tensorrt-rtx") of `version`, for `card`; `kernels`
    are those that TensorRT for RTX has compiled of it on the card, b"" for none."""

    library: str
    version: str
    card: str
    profiles: tuple[Profile, ...]
    plan: bytes
    kernels: bytes = b""

    def write(self, path: Path) -> None:
        """Raises `OSError` where it cannot be written."""
        header = {
            "library": self.library,
            "version": self.version,
            "card": self.card,
            "profiles": [asdict(profile) for profile in self.profiles],
            "plan": len(self.plan),
            "kernels": len(self.kernels),
        }
        path.write_bytes(b"".join([_MARK, json.dumps(header).encode(), b"\n", self.plan, self.kernels]))

    @staticmethod
    def read(path: Path) -> EngineFile:
        """What `write` wrote. Raises `CompileError` for anything else, `OSError` where it cannot be read."""
        with path.open("rb") as file:
            if file.readline(len(_MARK)) != _MARK:
                raise CompileError("what was compiled is no engine of TensorRT's; it has to be compiled anew")
            line, content = file.readline(_LONGEST_HEADER), file.read()
        try:
            header = json.loads(line)
            plan, kernels = _number(header["plan"]), _number(header["kernels"])
            if plan + kernels != len(content):
                raise ValueError("it is cut short, or has more than it should")
            return EngineFile(
                *(_text(header[name]) for name in ("library", "version", "card")),
                profiles=tuple(Profile(**{name: _shape(told[name]) for name in _SIDES}) for told in header["profiles"]),
                plan=content[:plan],
                kernels=content[plan:],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise CompileError("an engine of TensorRT's is damaged; it has to be compiled anew") from error


_SIDES = ("least", "typical", "most")


def _shape(told: Any) -> Shape:
    count, channels, height, width = map(_number, told)
    return count, channels, height, width


def _number(told: Any) -> int:
    if type(told) is not int or told < 0:
        raise ValueError(f"{told!r:.50} is no count")
    return told


def _text(told: Any) -> str:
    if type(told) is not str:
        raise ValueError(f"{told!r:.50} is no text")
    return told
