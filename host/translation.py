"""Sentences in another language, by a catalogue of sentences with holes.

Whoever has something to say says it in English, as an f-string; its translation is looked up where it leaves for the
page. Pure: a catalogue and a text in, a text out, in a time that grows with the text's length only.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from string import Formatter

_PREFIX = 3  # letters at the beginning of a sentence, by which it is looked up
_DEPTH = 4  # of what is told in what is told
_MOST_LOOKS = 500  # into the catalogue for one text; what we say takes a few dozen
_LONGEST = 2000  # characters of a text that is looked at in pieces; longer ones are somebody else's
_LONGEST_NAME = 300
_MOST_PIECES = 24
_WORD = re.compile("[A-Za-z]+")
_PATH = re.compile(r"[A-Za-z]:[\\/]|[\\/]")  # how one begins
# What stands beside numbers, and names of ways to compute: the same in every language.
_UNITS = {"ms", "s", "min", "h", "x", "B", "KB", "MB", "GB", "KiB", "MiB", "GiB", "MP", "fps"}
_NEUTRAL = _UNITS | {"bf", "fp", "autocast", "attention", "fused", "winograd"}
_FITS: dict[str | None, Callable[[str], object]] = {
    "n": re.compile(r"[0-9.,:%x/+e-]+(?: (?:h|min|s|ms))?(?: [0-9]+ (?:min|s))*").fullmatch,
    "s": re.compile(r"[^;:,()]*").fullmatch,
}


@dataclass(frozen=True)
class Sentence:
    """An English sentence and its translation, both in pieces.

    `literals` stand before, between and behind the holes `names`; `translation` is what stands before each of its
    holes, and the hole's name; `ways` says of a hole what is done with what stands in it, see `sentence_of`.
    """

    literals: tuple[str, ...]
    names: tuple[str, ...]
    translation: tuple[tuple[str, str | None], ...]
    ways: Mapping[str, str | None]

    @property
    def literal_length(self) -> int:
        return sum(map(len, self.literals))

    def matches(self, text: str) -> Iterator[dict[str, str]]:
        """What stands in the holes, if `text` is this sentence: with every literal as early as it can be, and as late.

        Of all the ways there may be these are the first and the last one, and there is none where they are not."""
        first, last = self.literals[0], self.literals[-1]
        if not self.names:
            if text == first:
                yield {}
        elif text.startswith(first) and text.endswith(last) and len(text) >= len(first) + len(last):
            middle, between = text[len(first) : len(text) - len(last)], self.literals[1:-1]
            early = _cut(middle, between)
            late = _cut_late(middle, between) if between and early else None
            for values in (early, late) if late != early else (early,):
                if values and all(self._fits(name, value) for name, value in zip(self.names, values, strict=True)):
                    yield dict(zip(self.names, values, strict=True))

    def _fits(self, name: str, value: str) -> bool:
        fits = _FITS.get(self.ways[name])
        return fits is None or bool(fits(value))


def sentence_of(english: str, translation: str) -> Sentence:
    """Of a catalogue's two sides: "{name} is {value}", "{name!t} 为 {value}".

    What stands in a hole is put in as it is. With `!t` it is translated, if it is known, and with `!r` it must be, or
    have no words; with `!n` it must be a number, or a time; with `!s` it must be something short, without any sign that
    joins sentences: else it is not this sentence.

    Raises `ValueError` for braces that do not match, for two holes side by side, of which nobody knows where the one
    ends, and where the translation has other holes than the English."""
    parts = [(literal, name) for literal, name, _, _ in Formatter().parse(english)]
    names = tuple(name for _, name in parts if name is not None)
    literals = tuple(literal for literal, _ in parts)
    literals = literals if parts and parts[-1][1] is None else (*literals, "")
    if not all(literals[1:-1]):
        raise ValueError(f"{english!r} has two holes side by side")
    told = [(literal, name, way) for literal, name, _, way in Formatter().parse(translation)]
    ways = {name: way for _, name, way in told if name is not None}
    if len({*names}) < len(names) or {*names} != ways.keys() or not {*ways.values()} <= {None, *"nrst"}:
        raise ValueError(f"{translation!r} has other holes than {english!r}")
    return Sentence(literals, names, tuple((literal, name) for literal, name, _ in told), ways)


@dataclass(frozen=True)
class _Effort:
    """How deep to look yet into what is told in a text, and how often in all, whatever the depth."""

    depth: int
    looks: Iterator[int]

    def deeper(self) -> _Effort:
        return replace(self, depth=self.depth - 1)


class Catalogue:
    """The sentences of one language, which joins them by full-width signs."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        """Raises `ValueError` as `sentence_of` does."""
        starts: dict[str, list[Sentence]] = defaultdict(list)
        for english, translation in texts.items():
            sentence = sentence_of(english, translation)
            starts[sentence.literals[0][:_PREFIX] if len(sentence.literals[0]) >= _PREFIX else ""].append(sentence)
        others = starts.pop("", [])
        self._any = _by_particularity(others)
        self._by_start = {start: _by_particularity((*some, *others)) for start, some in starts.items()}

    def translated(self, text: str) -> str:
        """`text` in this language; what is not known stays as it is, in whole."""
        found = self._translated(text, _Effort(_DEPTH, iter(range(_MOST_LOOKS))))
        return text if found is None else found

    def _translated(self, text: str, effort: _Effort) -> str | None:
        if next(effort.looks, None) is None:
            return None
        found = self._sentence(text, effort)
        further = found is None and effort.depth and len(text) <= _LONGEST
        return self._joined(text, effort.deeper()) if further else found

    def _sentence(self, text: str, effort: _Effort) -> str | None:
        for longest, last, sentence in self._by_start.get(text[:_PREFIX], self._any):
            if longest in text and text.endswith(last):
                for values in sentence.matches(text):
                    told = {name: self._in_hole(value, sentence.ways[name], effort) for name, value in values.items()}
                    if None not in told.values():
                        return "".join(
                            before + (told[name] or "" if name else "") for before, name in sentence.translation
                        )
        return None

    def _in_hole(self, value: str, way: str | None, effort: _Effort) -> str | None:
        """What is put in for `value`; None where it should be known and is not."""
        if way not in ("t", "r") or _is_neutral(value):
            return value
        told = self._translated(value, effort.deeper()) if effort.depth and len(value) <= _LONGEST else None
        return value if told is None and way == "t" else told

    def _joined(self, text: str, effort: _Effort) -> str | None:
        """What several sentences, or one and its circumstances, were joined to: only if all of it is known."""
        for before, after in (("; ", "；"), (", ", "，"), (" and ", "和")):
            if before in text:
                told = self._list(text.split(before), (before, after), effort)
                if told is not None:
                    return told
        if text.endswith(")") and " (" in text:
            head, _, inner = text[:-1].partition(" (")
            told = [self._piece(piece, effort) for piece in (head, inner)]
            if None not in told:
                return f"{told[0]}（{told[1]}）"
        return self._behind_a_name(text, effort)

    def _behind_a_name(self, text: str, effort: _Effort) -> str | None:
        """A sentence behind a file's name, or whose error it is, which stays as it is."""
        at = text.find(": ")
        while effort.depth and 0 <= at <= _LONGEST_NAME and ("; " not in text[:at] or _PATH.match(text)):
            told = self._translated(text[at + 2 :], effort.deeper())
            if told is not None:
                return f"{text[:at]}：{told}"
            at = text.find(": ", at + 1)
        return None

    def _list(self, pieces: Sequence[str], by: tuple[str, str], effort: _Effort) -> str | None:
        """The pieces, put together again where only several of them are a sentence; None where one is not known."""
        told, at = [], 0
        if len(pieces) > _MOST_PIECES:
            return None
        while at < len(pieces):
            for end in range(at + 1, len(pieces) + (at > 0)):  # all of them are what was asked for
                piece = self._piece(by[0].join(pieces[at:end]), effort)
                if piece is not None:
                    break
            else:
                return None
            told.append(piece)
            at = end
        return by[1].join(told)

    def _piece(self, text: str, effort: _Effort) -> str | None:
        return text if _is_neutral(text) else self._translated(text, effort)


def _cut(text: str, literals: Sequence[str]) -> list[str] | None:
    """What stands around the literals, each as early as it can be; None where one is missing."""
    found = []
    for literal in literals:
        before, there, text = text.partition(literal)
        if not there:
            return None
        found.append(before)
    return [*found, text]


def _cut_late(text: str, literals: Sequence[str]) -> list[str] | None:
    """The same, each as late as it can be."""
    found = []
    for literal in reversed(literals):
        text, there, behind = text.rpartition(literal)
        if not there:
            return None
        found.append(behind)
    return [text, *reversed(found)]


def _by_particularity(sentences: Sequence[Sentence]) -> list[tuple[str, str, Sentence]]:
    """What has most of its own first, each with its longest literal and its last one, by which most are ruled out."""
    ordered = sorted(sentences, key=lambda sentence: sentence.literal_length, reverse=True)
    return [(max(sentence.literals, key=len), sentence.literals[-1], sentence) for sentence in ordered]


def _is_neutral(piece: str) -> bool:
    """Whether there is nothing in it to translate: numbers, units, sizes, precisions ("1.9", "38 MP/s", "bf16")."""
    return piece.isascii() and not _PATH.match(piece) and _NEUTRAL.issuperset(_WORD.findall(piece))
