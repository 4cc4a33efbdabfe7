"""Pictures are read: each in its turn, and the first one ahead, while torch is imported and the model loaded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ..images.animation import ENDINGS as ANIMATED_ENDINGS
from ..images.animation import Animation, open_animation
from ..images.codecs.picture import Picture
from ..images.files import read_image
from ..images.jobs import Job
from ..images.limits import DecodeLimits

Read = Callable[[Job], Picture | Animation]

_DECODED_ALONE = (b"\x89PNG", b"II*\0", b"MM\0*")  # PNG, TIFF
_MOST_AHEAD = 16.0  # megapixels; some 300 MB, which importing and loading do not miss


def read(job: Job, limits: DecodeLimits) -> Picture | Animation:
    """The animation in the job's file, where its target can hold one, or else its first picture. Raises
    `BadImageError`."""
    animation = open_animation(job.source, limits) if job.target.suffix.lower() in ANIMATED_ENDINGS else None
    return animation or read_image(job.source, limits)


class ReadAhead:
    """Reads one job's picture in a thread while the body of `with` goes on; called with that job, it gives what was
    read. What cannot be read ahead, for whatever reason, is read again in its turn, which tells what is wrong."""

    def __init__(self, job: Job | None, limits: DecodeLimits) -> None:
        self._job, self._limits = job, limits
        self._found: Picture | Animation | None = None
        # A daemon: whoever stops the command is not to wait for it.
        self._thread = threading.Thread(target=self._read_ahead, name="reading ahead", daemon=True)

    def __enter__(self) -> ReadAhead:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None or issubclass(kind, Exception):
            self._thread.join()

    def __call__(self, job: Job) -> Picture | Animation:
        self._thread.join()
        found, self._found = self._found, None  # not kept while others are upscaled
        return found if found and job == self._job else read(job, self._limits)

    def _read_ahead(self) -> None:
        limits = replace(self._limits, max_megapixels=min(self._limits.max_megapixels, _MOST_AHEAD))
        # Decoders raise all sorts.
        with suppress(Exception):
            if self._job and _is_decoded_alone(self._job.source):
                self._found = read(self._job, limits)


def _is_decoded_alone(source: Path) -> bool:
    """Whether the file is of a kind that needs nothing of the process's: what Pillow warns of is caught by replacing
    the hook of all threads."""
    with source.open("rb") as file:
        return file.read(4) in _DECODED_ALONE
