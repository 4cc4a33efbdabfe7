"""What the segments of a film were made from: only those that were made from the same are gone on with."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spandrel import ImageModelDescriptor

from ..api.context import RunContext
from ..api.errors import BadFilmError
from ..api.options import UpscaleOptions
from ..storage.fingerprint import content_of
from .options import VideoOptions
from .pyav import load_av
from .window import Window

if TYPE_CHECKING:
    from .formats import FilmFormat

FORMAT = 1
"""Of the folder: another one is not read."""
_LOOKED_AT = 1 << 20  # bytes at the input's start and end: all of it would take minutes


@dataclass(frozen=True)
class Manifest:
    """What decides what a film becomes, by names that are told to users; the values are JSON's own."""

    entries: Mapping[str, Any]

    @property
    def text(self) -> str:
        """As it is kept."""
        return json.dumps(dict(self.entries), indent=1, sort_keys=True)

    @property
    def digest(self) -> str:
        """The same for all that agree, so that a segment can say what it was made from without this file."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def differences(self, kept: Mapping[str, Any]) -> list[str]:
        """What `kept`, of an earlier run, has otherwise, in words: "crf was 17, is 30"."""
        mine = json.loads(self.text)  # tuples become lists
        return [
            f"{name} was {_told(kept, name)}, is {_told(mine, name)}"
            for name in dict.fromkeys((*self.entries, *kept))
            if name not in mine or name not in kept or mine[name] != kept[name]
        ]


def of_work(
    planned: FilmFormat,
    model: ImageModelDescriptor,
    options: UpscaleOptions,
    context: RunContext,
    video: VideoOptions,
) -> dict[str, Any]:
    """What is done to a film: by which model, with which options, where, and how it is written."""
    asked = {**asdict(options), **asdict(video)}
    resize = asked.pop("resize")
    del asked["fps"]  # which is of pictures that are in the same queue
    return {
        **{name.replace("_", " "): value for name, value in asked.items()},
        **{f"resize {name}": value for name, value in resize.items()},
        "model": content_of(model.model),
        "device": context.switches.engine or str(context.device),
        "encoder": [planned.encoder.name, planned.pixel_format, *planned.stored],
        "encoder's options": planned.options,
        "reordered frames": planned.reorders,
        "PyAV": load_av().__version__,
        "format of the folder": FORMAT,
    }


def of_input(path: Path, window: Window) -> dict[str, Any]:
    """Which file it is: its size, when it was changed, and its first and last MiB; and the part of it that is in
    `window`. Raises `BadFilmError`."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            first = file.read(_LOOKED_AT)
            file.seek(max(0, status.st_size - _LOOKED_AT))
            last = file.read(_LOOKED_AT)
    except OSError as error:
        raise BadFilmError(f"{path}: cannot be read: {error.strerror or error}") from error
    return {
        "the input's size": status.st_size,
        "the input's time of change": status.st_mtime_ns,
        "the input's first MiB": hashlib.sha256(first).hexdigest(),
        "the input's last MiB": hashlib.sha256(last).hexdigest(),
        "the input's part": [str(window.start), str(window.end)],
    }


def _told(entries: Mapping[str, Any], name: str) -> str:
    if name not in entries:
        return "not there"
    text = json.dumps(entries[name])
    return text if len(text) <= 40 else f"{text[:13]}..."
