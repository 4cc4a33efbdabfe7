"""What a film is read by, wherever it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from .facts import FilmFacts, Losses
from .reader import Frame

if TYPE_CHECKING:
    from av.packet import Packet
    from av.stream import Stream


class Tagged(Protocol):
    """A file, or a stream in it, and what is written on it."""

    @property
    def metadata(self) -> Mapping[str, str]: ...


class TaggedStream(Tagged, Protocol):
    """The film's stream. `disposition`: whether it is shown by default, and more of the kind."""

    @property
    def disposition(self) -> Any: ...


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


class FilmInput(Beside, Protocol):
    """A film, open from `with` on, as `FilmReader` has one: `items` has the packets of `others`."""

    @property
    def facts(self) -> FilmFacts: ...

    @property
    def begins(self) -> Fraction:
        """The second of what it was made of that stands at 0."""
        ...

    @property
    def first(self) -> Frame:
        """The first frame; the tags of its picture are the film's."""
        ...

    @property
    def container(self) -> Tagged: ...

    @property
    def stream(self) -> TaggedStream: ...

    @property
    def losses(self) -> Losses:
        """What could not be read so far."""
        ...

    def chapters(self) -> list[Any]:
        """As PyAV has them."""
        ...

    def items(self) -> Iterator[Frame | Packet[Any]]:
        """Once: frames in the order in which they are shown, and the packets of `others`."""
        ...

    def __enter__(self) -> FilmInput: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None: ...
