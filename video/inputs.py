"""What a film is read by, wherever it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from .facts import FilmFacts, FilmTags, Frame, Losses

if TYPE_CHECKING:
    from av.packet import Packet
    from av.stream import Stream


class Beside(Protocol):
    """What is copied of a film's file."""

    @property
    def others(self) -> Sequence[Stream]:
        """Its streams."""
        ...

    @property
    def covers(self) -> Mapping[int, bytes]:
        """Encoded pictures among these, by their stream's index."""
        ...


class Original(Beside, Protocol):
    """What a film that is written is to be like."""

    @property
    def facts(self) -> FilmFacts: ...

    @property
    def tags(self) -> FilmTags:
        """What its file says of it in words."""
        ...


class FilmInput(Original, Protocol):
    """A film, open from `with` on, as `FilmReader` has one: `items` has the packets of `others`."""

    @property
    def begins(self) -> Fraction:
        """The second of what it was made of that stands at 0."""
        ...

    @property
    def first(self) -> Frame:
        """The first frame; the tags of its picture are the film's."""
        ...

    @property
    def losses(self) -> Losses:
        """What could not be read so far."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of the frames read so far, in sentences."""
        ...

    def to_pixels(self, alpha: bool) -> Callable[[Any], NDArray[Any]]:
        """What makes pixels [H, W, C] of a frame's picture, with `alpha` if the film has some."""
        ...

    def items(self) -> Iterator[Frame | Packet[Any]]:
        """Once: frames in the order in which they are shown, and the packets of `others`."""
        ...

    def __enter__(self) -> FilmInput: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None: ...
