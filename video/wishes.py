"""What somebody who saves a film asks for, beside what was asked for before; and the files that were made so."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ..api.errors import BadOptionError
from .encoders import CONTAINERS
from .options import AUTOMATIC, VideoOptions

# What others call a codec, and our encoders for it; the first, unless the node chose one of the others.
_CODECS = {
    "h264": ("libx264", "h264_nvenc"),
    "hevc": ("libx265", "hevc_nvenc"),
    "h265": ("libx265", "hevc_nvenc"),
    "av1": ("libsvtav1", "av1_nvenc"),
    "vp9": ("libvpx-vp9",),
    "prores": ("prores_ks",),
    "ffv1": ("ffv1",),
}


@dataclass(frozen=True)
class Wish:
    """A file that somebody wants of it: what else is the same, is the same file, but for its tags."""

    ending: str
    video: VideoOptions
    colour: str | None = None

    @classmethod
    def usual(cls, video: VideoOptions) -> Wish:
        """Where nothing is said of the container: mp4, if the encoder goes into it."""
        return cls(next(ending for ending in CONTAINERS if ending in video.encoder(ending).containers), video)

    def but(self, codec: str, crf: float | None, bits: int | None, colour: str | None) -> Wish:
        """The same but for what is neither "auto" nor None: an encoder of this codec, and numbers."""
        video = self.video
        if codec != AUTOMATIC:
            if codec not in _CODECS:
                raise BadOptionError(f"codec is {codec!r}; choose auto, or one of {_listed(_CODECS)}")
            if video.codec not in _CODECS[codec]:
                video = replace(video, codec=_CODECS[codec][0], crf=None)  # which means something else there
        if crf is not None:
            video = replace(video, crf=round(crf))
        if bits is not None:
            video = replace(video, bits=int(bits))
        return replace(self, video=video, colour=colour)


@dataclass(frozen=True)
class Made:
    """A file that was computed for a wish, with these tags, and how it was then: (bytes, nanoseconds of its time)."""

    path: Path
    wish: Wish
    tags: tuple[str, ...]
    looked: tuple[int, int]

    @classmethod
    def now(cls, path: Path, wish: Wish, tags: Iterable[str]) -> Made:
        """A file that was made just now."""
        return cls(path, wish, tuple(tags), _look(path))

    def is_there(self) -> bool:
        """Unchanged."""
        return _look(self.path) == self.looked


def ending_of(container: str, path: str) -> str:
    """The ending of files of a container that is asked for, or, for "auto", of the one that `path` is called like; "":
    it is called like none. Raises `BadOptionError` for a container that is not written."""
    if container == AUTOMATIC:
        ending = Path(path).suffix.lower()
        return ending if ending in CONTAINERS else ""
    ending = f".{container}"
    if ending not in CONTAINERS:
        raise BadOptionError(f"format is {container!r}; choose auto, or one of {_listed(CONTAINERS)}")
    return ending


def _look(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _listed(names: Iterable[str]) -> str:
    return ", ".join(name.lstrip(".") for name in names)
