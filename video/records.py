"""What is known of a segment of a film, in a small file beside it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .facts import Losses

_MOST_BYTES = 1 << 26  # of a file that is read


class KnownFrame(NamedTuple):
    """A frame of the source as it was read: where it stands and how long it lasts, in ticks of the film's time base,
    and the CRC-32 of its pixels."""

    pts: int
    duration: int
    crc: int


class KnownPacket(NamedTuple):
    """When an encoded frame is shown, and for how long, in ticks of the film's time base, of which Matroska, that has
    milliseconds, knows only nearly."""

    pts: int
    duration: int


@dataclass(frozen=True)
class Segment:
    """A segment that is whole: the `index`-th of the film's grid. Its `frames` frames are the film's from the
    `first`-th on. By then `losses` were met. `last`:
    the film ends with it. Its file has so many `bytes`, whose hash is `sha256`."""

    index: int
    first: int
    frames: int
    losses: Losses
    last: bool
    bytes: int
    sha256: str


class Times(NamedTuple):
    """The frames of a segment in the order in which they are shown, and its packets in that in which they lie there."""

    frames: list[KnownFrame]
    packets: list[KnownPacket]


def text_of(segment: Segment, times: Times, made_from: str) -> str:
    """As it is kept, with the digest of the manifest that says what it was made from."""
    return json.dumps({"made_from": made_from, **asdict(segment), "known": times.frames, "packets": times.packets})


def read_record(path: Path, made_from: str) -> tuple[Segment, Times] | None:
    """None where there is none that can be trusted, or it was made from something else."""
    kept = read_json(path)
    if not isinstance(kept, dict) or kept.get("made_from") != made_from:
        return None
    try:
        frames = [KnownFrame(*_integers(entry, 3)) for entry in kept["known"]]
        packets = [KnownPacket(*_integers(entry, 2)) for entry in kept["packets"]]
        index, first, size = _integers([kept[name] for name in ("index", "first", "bytes")], 3)
        losses = Losses(*_integers([kept["losses"][name] for name in ("damaged", "retimed", "missing")], 3))
        last, sha256 = kept["last"], kept["sha256"]
    except (KeyError, TypeError, ValueError):
        return None
    if not frames or len(packets) != len(frames) or not isinstance(last, bool) or not isinstance(sha256, str):
        return None
    return Segment(index, first, len(frames), losses, last, size, sha256), Times(frames, packets)


def read_json(path: Path) -> Any:
    """What a file of ours holds; None where it is missing or damaged."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        return json.loads(data) if len(data) <= _MOST_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None


def _integers(entry: Any, count: int) -> list[int]:
    """Raises `TypeError` or `ValueError` unless it is a list of so many."""
    if not isinstance(entry, list) or len(entry) != count:
        raise ValueError
    if any(type(value) is not int for value in entry):
        raise TypeError
    return entry
