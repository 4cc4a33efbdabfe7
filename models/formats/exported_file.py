"""Exported models: programs for XLA that compute a model on tiles of one size, and its weights.

cudaspeed StableHLO model 1
{"jax": "0.10.2", "platforms": ["cpu", "tpu"], "tile": [256, 256], "programs": {"fp32": {"1": 15240}, "bf16": ...},
 "arguments": {"module.body.0.weight": "body.0.weight"}, "beside": []}
<program><program>...<tensors: safetensors>

A program takes tensors under names of its own, `arguments`. All tensors but those `beside` are the model's state dict,
so that the file is a model file like others, wherever there is no XLA. What the programs are, nothing here knows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from .errors import DamagedError, RefusedError
from .records import TensorRecord
from .safetensors_file import SafetensorsFile, open_safetensors

ENDING = ".stablehlo"

_KIND = b"cudaspeed StableHLO model "
_MARK = _KIND + b"1\n"
_LONGEST_HEADER = 4 << 20  # bytes; that of a model of 3000 tensors has some 400,000
_LARGEST_PROGRAMS = 256 << 20  # bytes, all together; attention models have their masks in them
_MOST_PLATFORMS, _LONGEST_WORD, _MOST_TOGETHER, _LONGEST_SIDE = 8, 80, 64, 1 << 16


@dataclass(frozen=True)
class ExportInfo:
    """What an exported file says of itself: by which version of JAX it was written, for which platforms as JAX calls
    them, for tiles of which (height, width); its programs' bytes by precision ("fp32", or "bf16", which take tensors of
    floating types as bfloat16) and by tiles at once, of which 1 is among; the tensors that they take, by their own
    names; and the tensors that are none of the model's."""

    jax: str
    platforms: tuple[str, ...]
    tile: tuple[int, int]
    programs: Mapping[str, Mapping[int, int]]
    arguments: Mapping[str, str]
    beside: frozenset[str] = frozenset()

    def to_bytes(self) -> bytes:
        """The beginning of a file, before its programs, in their order here."""
        told = {
            "jax": self.jax,
            "platforms": self.platforms,
            "tile": self.tile,
            "programs": self.programs,
            "arguments": self.arguments,
            "beside": sorted(self.beside),
        }
        return _MARK + json.dumps(told).encode() + b"\n"


@dataclass(frozen=True)
class ExportedFile:
    """`info`, where the programs begin, and all the tensors."""

    info: ExportInfo
    begin: int
    tensors: SafetensorsFile

    @property
    def of_model(self) -> dict[str, TensorRecord]:
        """The model's state dict."""
        return {name: one for name, one in self.tensors.records.items() if name not in self.info.beside}

    def programs(self, file: BinaryIO, precision: str) -> dict[int, bytes]:
        """Those of a precision by the tiles that they take at once, none where there are none. Raises
        `DamagedError`."""
        file.seek(self.begin)
        found = {}
        for kind, lengths in self.info.programs.items():
            for tiles, length in lengths.items():
                program = file.read(length)
                if len(program) != length:
                    raise DamagedError("it is cut short")
                if kind == precision:
                    found[tiles] = program
        return found


def is_exported(head: bytes) -> bool:
    """Whether a file that begins with `head` is one, of whatever version."""
    return head.startswith(_KIND)


def open_exported(file: BinaryIO, size: int) -> ExportedFile:
    """The file, which has `size` bytes and must stay open. Raises `DamagedError` or `RefusedError`."""
    file.seek(0)
    if file.read(len(_MARK)) != _MARK:
        raise RefusedError("was exported by another version of cudaspeed; export it again")
    line = file.readline(_LONGEST_HEADER)
    try:
        info = _info(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError("what it says of itself is damaged") from error
    begin = len(_MARK) + len(line)
    length = sum(length for lengths in info.programs.values() for length in lengths.values())
    if length > _LARGEST_PROGRAMS:
        raise RefusedError(f"has programs of {length} bytes; at most {_LARGEST_PROGRAMS} are read")
    if begin + length > size:
        raise DamagedError("it is cut short")
    tensors = open_safetensors(file, size, begin + length)
    if not {*info.arguments.values(), *info.beside} <= tensors.records.keys():
        raise DamagedError("tensors that its programs take are missing")
    return ExportedFile(info, begin, tensors)


def _info(told: Any) -> ExportInfo:
    """Raises `ValueError` and what else comes of JSON that is something else."""
    programs = {
        _word(precision): {int(tiles): _within(length, _LARGEST_PROGRAMS) for tiles, length in lengths.items()}
        for precision, lengths in told["programs"].items()
    }
    if not programs or any(1 not in lengths for lengths in programs.values()):
        raise ValueError("it has nothing for one tile")
    for lengths in programs.values():
        for tiles in lengths:
            _within(tiles, _MOST_TOGETHER)
    height, width = (_within(side, _LONGEST_SIDE) for side in told["tile"])
    platforms = tuple(_word(platform) for platform in told["platforms"])
    if not 1 <= len(platforms) <= _MOST_PLATFORMS:
        raise ValueError("it is for no platform")
    arguments, beside = told["arguments"], told["beside"]
    if not all(isinstance(name, str) for name in (*arguments, *arguments.values(), *beside)):
        raise ValueError("names are texts")
    return ExportInfo(_word(told["jax"]), platforms, (height, width), programs, dict(arguments), frozenset(beside))


def _word(told: Any) -> str:
    if not isinstance(told, str) or not told.isprintable() or not 0 < len(told) <= _LONGEST_WORD:
        raise ValueError("it is no word")
    return told


def _within(told: Any, most: int) -> int:
    if type(told) is not int or not 0 < told <= most:
        raise ValueError("it is no such number")
    return told
