"""A reader of pickles that builds plain values and nothing else: it imports nothing and calls nothing that they name.

A pickle is a program for a small stack machine. This one knows the instructions that saved weights consist of. A name
in the pickle becomes what `Names.resolve` gives for it, a function of ours or a plain value; only such a `Builder` is
ever called. Every instruction does work and takes memory of its own length alone, and there are only so many.

Source of the instructions: `pickletools` in Python's library, which documents each.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from .errors import DamagedError, RefusedError

MOST_BYTES = 64 << 20  # of what pickles in one file hold; those of a model of 10,000 tensors have some two million
_MOST_INSTRUCTIONS = 4_000_000  # a model of 10,000 tensors has some 300,000; each takes less than 100 bytes
_MOST_CALLS = 1 << 17  # of builders, and references; a tensor needs three
MOST_ARGUMENTS = 16
_LONGEST_NUMBER = 64  # bytes of an integer; torch's magic number has 10
_LONGEST_NAME = 256
# What is kept under another key is dropped: hashing a nested tuple may exhaust the machine's own stack. Text has hashes
# that no file can foresee; those of numbers may all be one, and a dictionary of many such takes for ever.
_TEXT_KEYS, _NUMBER_KEYS = (str, bytes), (int, float, bool, type(None))
_MOST_NUMBER_KEYS = 1 << 14  # an optimiser has one for each tensor


@dataclass(frozen=True)
class Builder:
    """What a pickle may call: a function of ours, which gives a plain value or the description of a tensor, in a time
    that does not depend on the length of what it is given. It gets 16 arguments at most."""

    build: Callable[..., object]


@dataclass(frozen=True)
class Ignored:
    """Stands for a value that no model needs: a number type, a training option, the state of an optimiser."""


@dataclass(frozen=True)
class Names:
    """How a pickle's names and references are understood: `resolve(module, name)` gives a `Builder` or a plain value,
    `refer(id)` what lies outside the pickle under this id. Both raise `ValueError` for what they do not know."""

    resolve: Callable[[str, str], object]
    refer: Callable[[object], object]


class PickleReader:
    """Reads the pickles in `file`, one after the other from where it is; what they may cost is bounded together."""

    def __init__(self, file: BinaryIO, names: Names) -> None:
        self.file, self.names = file, names
        self.instructions, self.bytes_left, self.calls = _MOST_INSTRUCTIONS, MOST_BYTES, _MOST_CALLS
        self.number_keys = _MOST_NUMBER_KEYS
        self.stack: list[Any] = []  # of the pickle that is read
        self.below: list[list[Any]] = []  # the stacks that its marks were laid on
        self.memo: dict[int, Any] = {}

    def read(self) -> Any:
        """The value of the next pickle; the file is left where that ends.

        Raises `DamagedError` for what is no pickle of plain values, and what `names` raises.
        """
        self.stack, self.below, self.memo = [], [], {}
        try:
            self._run()
        except (DamagedError, RefusedError):
            raise
        except (struct.error, LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise DamagedError(f"its pickle is damaged ({type(error).__name__})") from error
        if len(self.stack) != 1 or self.below:
            raise DamagedError("its pickle leaves more than one value")
        return self.stack.pop()

    def _run(self) -> None:
        read, steps = self.file.read, _INSTRUCTIONS
        for left in range(self.instructions - 1, -1, -1):
            code = read(1)
            step = steps.get(code)
            if step:
                step(self)
            elif code == _STOP:
                self.instructions = left
                return
            elif code and code in _OF_OLD_PROTOCOLS:
                raise RefusedError("has a pickle of protocol 0 or 1, which is not read; save it again with protocol 2")
            else:
                said = f"has the instruction 0x{code.hex()}, which no saved weights have" if code else "is cut short"
                raise DamagedError(f"its pickle {said}")
        raise DamagedError(f"its pickles have more than {_MOST_INSTRUCTIONS} instructions; no upscaling model has")

    # What follows an instruction in the file

    def bytes(self, count: int) -> bytes:
        self.bytes_left -= count
        if self.bytes_left < 0:
            raise DamagedError(f"its pickles have more than {MOST_BYTES} bytes; no upscaling model has")
        content = self.file.read(count)
        if len(content) != count:
            raise DamagedError("its pickle is cut short")
        return content

    def number(self, layout: struct.Struct) -> Any:
        return layout.unpack(self.file.read(layout.size))[0]

    def text(self, length: struct.Struct) -> str:
        return self.bytes(self.number(length)).decode("utf-8", "surrogateescape")

    def long(self, length: struct.Struct) -> int:
        count = self.number(length)
        if count > _LONGEST_NUMBER:
            raise DamagedError("its pickle has an absurdly long number")
        return int.from_bytes(self.bytes(count), "little", signed=True)

    def line(self) -> str:
        text = self.file.readline(_LONGEST_NAME)
        if not text.endswith(b"\n"):
            raise DamagedError("its pickle has a name without an end")
        return text[:-1].decode()

    # The stack

    def push(self, value: object) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        values, self.stack = self.stack, self.below.pop()
        return values

    def top(self, count: int) -> list[Any]:
        """The topmost values, the last on top, taken away."""
        if count > len(self.stack):
            raise IndexError
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    # Instructions that do more than push

    def fill(self, pairs: list[Any]) -> None:
        """Keys and values in turn, into the dictionary below them."""
        target = self.stack[-1]
        if isinstance(target, Ignored):
            return
        if type(target) is not dict or len(pairs) % 2:
            raise DamagedError("its pickle puts items where none can be")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if type(key) in _TEXT_KEYS:
                target[key] = value
            elif type(key) in _NUMBER_KEYS:
                self.number_keys -= 1
                if self.number_keys < 0:
                    raise DamagedError(f"its pickles have more than {_MOST_NUMBER_KEYS} numbers as keys; no model has")
                target[key] = value

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Ignored):
            return
        if type(target) is not list:
            raise DamagedError("its pickle appends where nothing can be appended")
        target.extend(values)

    def name(self, module: object, name: object) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise DamagedError("its pickle has a name that is no text")
        self.push(self.names.resolve(module, name))

    def count_call(self) -> None:
        self.calls -= 1
        if self.calls < 0:
            raise DamagedError(f"its pickles make more than {_MOST_CALLS} values of others; no upscaling model does")

    def call(self) -> None:
        function, arguments = self.top(2)
        self.count_call()
        if isinstance(function, Ignored):
            self.push(function)
        elif isinstance(function, Builder) and type(arguments) is tuple and len(arguments) <= MOST_ARGUMENTS:
            self.push(function.build(*arguments))
        else:
            raise DamagedError("its pickle calls what cannot be called")

    def refer(self) -> None:
        self.count_call()
        self.push(self.names.refer(self.stack.pop()))

    def set_state(self) -> None:
        """Drop the attributes of a value: those that state dicts have, torch's own bookkeeping, are not needed."""
        target, _ = self.top(2)
        self.push(target)


_BYTE, _SHORT, _INT, _UINT, _ULONG = (struct.Struct(f"<{letter}") for letter in "BHiIQ")
_FLOAT = struct.Struct(">d")  # the one number that is big-endian
_STOP, _OF_OLD_PROTOCOLS = b".", b"pgIVFLSPio"

_INSTRUCTIONS: dict[bytes, Callable[[PickleReader], object]] = {
    # A protocol's number and a frame's length change nothing here.
    b"\x80": lambda m: m.number(_BYTE),
    b"\x95": lambda m: m.number(_ULONG),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m.number(_BYTE)),
    b"M": lambda m: m.push(m.number(_SHORT)),
    b"J": lambda m: m.push(m.number(_INT)),
    b"\x8a": lambda m: m.push(m.long(_BYTE)),
    b"\x8b": lambda m: m.push(m.long(_UINT)),
    b"G": lambda m: m.push(m.number(_FLOAT)),
    b"\x8c": lambda m: m.push(m.text(_BYTE)),
    b"X": lambda m: m.push(m.text(_UINT)),
    b"\x8d": lambda m: m.push(m.text(_ULONG)),
    b"U": lambda m: m.push(m.text(_BYTE)),  # text as Python 2 wrote it
    b"T": lambda m: m.push(m.text(_UINT)),
    b"C": lambda m: m.push(m.bytes(m.number(_BYTE))),
    b"B": lambda m: m.push(m.bytes(m.number(_UINT))),
    b"\x8e": lambda m: m.push(m.bytes(m.number(_ULONG))),
    b")": lambda m: m.push(()),
    b"]": lambda m: m.push([]),
    b"}": lambda m: m.push({}),
    b"\x8f": lambda m: m.push(Ignored()),  # a set
    b"\x90": lambda m: m.since_mark(),
    b"\x91": lambda m: (m.since_mark(), m.push(Ignored())),  # a frozen one
    b"(": lambda m: m.mark(),
    b"0": lambda m: m.stack.pop(),
    b"1": lambda m: m.since_mark(),
    b"2": lambda m: m.push(m.stack[-1]),
    b"t": lambda m: m.push(tuple(m.since_mark())),
    b"\x85": lambda m: m.push(tuple(m.top(1))),
    b"\x86": lambda m: m.push(tuple(m.top(2))),
    b"\x87": lambda m: m.push(tuple(m.top(3))),
    b"l": lambda m: m.push(m.since_mark()),
    b"d": lambda m: (pairs := m.since_mark(), m.push({}), m.fill(pairs)),
    b"s": lambda m: m.fill(m.top(2)),
    b"u": lambda m: m.fill(m.since_mark()),
    b"a": lambda m: m.append(m.top(1)),
    b"e": lambda m: m.append(m.since_mark()),
    b"q": lambda m: m.memo.__setitem__(m.number(_BYTE), m.stack[-1]),
    b"r": lambda m: m.memo.__setitem__(m.number(_UINT), m.stack[-1]),
    b"\x94": lambda m: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    b"h": lambda m: m.push(m.memo[m.number(_BYTE)]),
    b"j": lambda m: m.push(m.memo[m.number(_UINT)]),
    b"c": lambda m: m.name(m.line(), m.line()),
    b"\x93": lambda m: m.name(*m.top(2)),
    b"R": lambda m: m.call(),
    b"\x81": lambda m: m.call(),  # a new object of a class: for a builder the same
    b"b": lambda m: m.set_state(),
    b"Q": lambda m: m.refer(),
}
