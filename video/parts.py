"""The folder `NAME.parts`, with the segments of a film that is not whole yet: whose it is, and what in it counts."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..api.errors import BadOptionError, OutputError
from ..storage.files import locked, replace_whole, sha256_of
from .records import KnownFrame, Segment, Times, read_json, read_record, text_of

if TYPE_CHECKING:
    from .manifest import Manifest

_ENDING = ".parts"
_PARTIAL = ".partial"
_MANIFEST, _LOCK, _MARK = "manifest.json", "lock", "partial"
_OURS = re.compile(r"\d{6,}\.(mkv|mkv\.new|json|new)|manifest\.(json|new)|lock|partial")


def parts_of(target: Path) -> Path:
    """The folder of the film that is to be `target`."""
    return target.with_name(target.name + _ENDING)


def partial_of(target: Path) -> Path:
    """What is done of a film that was stopped, to be looked at: `out.partial.mp4` of `out.mp4`."""
    return target.with_name(f"{target.stem}{_PARTIAL}{target.suffix}")


def is_partial(path: Path) -> bool:
    """Whether it is such a file, of a film that is not whole yet."""
    stem = path.stem.removesuffix(_PARTIAL)
    return stem != path.stem and parts_of(path.with_name(stem + path.suffix)).is_dir()


class Parts:
    """The segments in `folder` that were made from what `made_from`, a manifest's digest, stands for, and are as they
    were written. `notes` are sentences on what is not used."""

    def __init__(self, folder: Path, target: Path, made_from: str) -> None:
        self.folder, self.target, self._made_from = folder, target, made_from
        self.segments: dict[int, Segment] = {}
        self.notes: list[str] = []
        for path in sorted(folder.glob("*.mkv")):
            if _OURS.fullmatch(path.name):
                self._take(int(path.stem))
        self.found = frozenset(self.segments)

    @property
    def bytes(self) -> int:
        """All segments' together."""
        return sum(segment.bytes for segment in self.segments.values())

    @property
    def frames(self) -> int:
        """All segments' together."""
        return sum(segment.frames for segment in self.segments.values())

    def path(self, index: int) -> Path:
        """Of the segment of this number."""
        return self.folder / f"{index:06}.mkv"

    def begun(self) -> list[Segment]:
        """The segments that follow one another from the film's first frame on."""
        found: list[Segment] = []
        frames = 0
        for index in sorted(self.segments):
            if self.segments[index].first != frames:
                break
            found.append(self.segments[index])
            frames += found[-1].frames
        return found

    def is_whole(self) -> bool:
        """Whether every segment of the film is there."""
        begun = self.begun()
        return bool(begun) and begun[-1].last

    def times(self, index: int) -> Times:
        """Of a segment that is there. Raises `OutputError` where its record is gone."""
        found = read_record(self._record(index), self._made_from)
        if found is None:
            raise OutputError(f"{self._record(index)}: was changed meanwhile; call again, and it is done anew")
        return found[1]

    def tail(self, count: int) -> list[KnownFrame]:
        """The last frames before the first that is missing, so many if there are."""
        found: list[KnownFrame] = []
        for segment in reversed(self.begun()):
            if len(found) >= count:
                break
            found[:0] = self.times(segment.index).frames
        return found[-count:]

    def keep(self, written: Path, segment: Segment, times: Times) -> None:
        """A segment, in the file `written`, which is closed and synced, counts from now on, whatever happens."""
        written.replace(self.path(segment.index))
        replace_whole(self._record(segment.index), text_of(segment, times, self._made_from))
        sync_folder(self.folder)
        self.segments[segment.index] = segment

    def mark_partial(self) -> bool:
        """Whether the file for looking at what is done may be written: it is ours, or there is none. It is from now
        on."""
        mark = self.folder / _MARK
        if partial_of(self.target).exists() and not mark.exists():
            return False
        mark.touch()
        return True

    def remove(self) -> None:
        """The film is whole: all that we made goes. What cannot be removed stays."""
        _clear(self.folder, self.target)

    def _record(self, index: int) -> Path:
        return self.path(index).with_suffix(".json")

    def _take(self, index: int) -> None:
        path = self.path(index)
        found = read_record(self._record(index), self._made_from)
        try:
            whole = found is not None and found[0].index == index and sha256_of(path) == found[0].sha256
        except OSError:
            whole = False
        if found and whole:
            self.segments[index] = found[0]
        else:
            self.notes.append(f"{path} is damaged, or was never finished: it is done anew")


@contextmanager
def opened_parts(places: tuple[Path, Path], manifest: Manifest, restart: bool) -> Iterator[Parts]:
    """What is done of a film, in the `places` for its segments and itself, for this process alone; with `restart`
    nothing is.

    Raises `BadOptionError` where it was made from something else, and says what differs, and `OutputError` where
    another run is at it, or the folder cannot be made.
    """
    folder, target = places
    try:
        folder.mkdir(exist_ok=True)
        with locked(folder / _LOCK, 0):  # ends with its process, however that ends
            if restart:
                _clear(folder, target, but=_LOCK)
            noted = _agree(folder, manifest)
            parts = Parts(folder, target, manifest.digest)
            parts.notes[:0] = noted
            try:
                yield parts
            finally:
                if not parts.segments and not (folder / _MARK).exists():
                    parts.remove()  # nothing is done, so nothing is left
        if sys.platform == "win32" and not (folder / _MANIFEST).exists():  # where nobody deletes what is open
            _clear(folder, target)
    except TimeoutError as error:
        raise OutputError(f"{target}: another run is writing it; wait for its end, or name another output") from error
    except (BadOptionError, OutputError):
        raise
    except OSError as error:
        named = error.filename or folder
        raise OutputError(f"{named}: segments cannot be written: {error.strerror or error}") from error


def sync_folder(folder: Path) -> None:
    """What was renamed in it is so after a power cut, too."""
    if sys.platform != "win32":  # which opens no folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _agree(folder: Path, manifest: Manifest) -> list[str]:
    """That what is in the folder was made from the same; what is to be told. Raises `BadOptionError`."""
    path, told = folder / _MANIFEST, []
    kept = read_json(path)
    if isinstance(kept, dict):
        differences = manifest.differences(kept)
        if differences:
            raise BadOptionError(
                f"{folder} has what is done of a film, of another input or with other options: "
                f"{'; '.join(differences)}. Call as before to go on, or with --restart (restart=True) to begin anew"
            )
    else:
        if path.exists():
            told.append(f"{path} is damaged; segments that say themselves what they were made from are used")
        replace_whole(path, manifest.text)
    return told


def _clear(folder: Path, target: Path, but: str = "") -> None:
    """What is ours in it, but for one name, and itself if there is nothing else; the lock last."""
    with suppress(OSError):  # Windows deletes nothing that is open; and what is left over does no harm
        if (folder / _MARK).exists():
            partial_of(target).unlink(missing_ok=True)
        for path in sorted(folder.iterdir(), key=lambda path: (path.name == _LOCK, path.name == _MANIFEST)):
            if _OURS.fullmatch(path.name) and path.name != but:
                path.unlink()
        folder.rmdir()
