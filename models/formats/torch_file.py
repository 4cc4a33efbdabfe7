"""Files by `torch.save`: an archive of a pickle and its storages, or, as before torch 1.6, one after the other.

Sources: `torch/serialization.py` and the note "Serialization semantics" in torch's documentation.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO

from . import zip_archive
from .errors import DamagedError, RefusedError, shown
from .pickle_reader import MOST_BYTES, PickleReader
from .records import StorageRecord
from .torch_names import names_of_torch

PICKLE = b"\x80"  # how every pickle since protocol 2 begins
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_COUNT = struct.Struct("<q")  # elements, before each storage of a legacy file


@dataclass(frozen=True)
class TorchFile:
    """What was saved, with `TensorRecord`s where tensors are, and how to read a storage's bytes into memory."""

    content: Any
    read: Callable[[StorageRecord, memoryview], None]


def open_archive(file: BinaryIO, size: int) -> TorchFile:
    """The archive in `file`, which has `size` bytes and must stay open. Raises `DamagedError` or `RefusedError`."""
    entries = zip_archive.entries_of(file, size)
    if any(name.endswith("constants.pkl") or "/code/" in name for name in entries):
        raise RefusedError(
            "is a TorchScript archive: a program, not just weights. It was refused and nothing was run; "
            "use a .safetensors or .pth file of this model"
        )
    pickles = [name for name in entries if name.rpartition("/")[2] == "data.pkl" and name.count("/") <= 1]
    if len(pickles) != 1:
        raise RefusedError("is an archive, but none that torch.save writes; unpack it and use the model file in it")
    folder = pickles[0].removesuffix("data.pkl")
    content = PickleReader(_small(file, entries[pickles[0]]), names_of_torch({})).read()
    order = entries.get(f"{folder}byteorder")
    foreign = order is not None and _small(file, order).read() != sys.byteorder.encode()

    def read(storage: StorageRecord, into: memoryview) -> None:
        entry = entries.get(f"{folder}data/{storage.key}")
        if entry is None or entry.size != len(into):
            raise DamagedError(f"the storage {shown(storage.key)} is missing, or not as long as it is said to be")
        zip_archive.read_entry(file, entry, into)
        if foreign:
            _swap_bytes(into, storage.dtype.itemsize // (2 if storage.dtype.is_complex else 1))

    return TorchFile(content, read)


def open_legacy(file: BinaryIO, size: int) -> TorchFile:
    """The file of a pickle, then its storages, in `file`, which has `size` bytes and must stay open.

    Raises `DamagedError` or `RefusedError`. A pickle that torch did not write is read, too: there may be a name in it
    to tell of.
    """
    file.seek(0)
    storages: dict[str, StorageRecord] = {}
    pickles = PickleReader(file, names_of_torch(storages))
    content = pickles.read()
    keys: object = []
    if content == _LEGACY_MAGIC:
        protocol, system = pickles.read(), pickles.read()
        if protocol != _LEGACY_PROTOCOL or type(system) is not dict or system.get("little_endian") is not True:
            raise RefusedError("was saved on a big-endian machine, or by an unknown version of torch; save it again")
        content, keys = pickles.read(), pickles.read()
    starts = _starts(keys, storages, file.tell(), size)

    def read(storage: StorageRecord, into: memoryview) -> None:
        if storage.key not in starts:
            raise DamagedError(f"the storage {shown(storage.key)} is missing")
        file.seek(starts[storage.key])
        if file.read(_COUNT.size) != _COUNT.pack(storage.count) or file.readinto(into) != len(into):  # type: ignore[attr-defined]
            raise DamagedError(f"the storage {shown(storage.key)} is cut short, or not as long as it is said to be")

    return TorchFile(content, read)


def _starts(keys: object, storages: dict[str, StorageRecord], start: int, size: int) -> dict[str, int]:
    """Where each storage of a legacy file begins, with its count of elements; they follow each other as listed."""
    if type(keys) is not list or not all(type(key) is str and key in storages for key in keys):
        raise DamagedError("its list of storages is damaged")
    starts: dict[str, int] = {}
    for key in keys:
        starts[key] = start
        start += _COUNT.size + storages[key].size
    if start > size:
        raise DamagedError("it is cut short")
    return starts


def _small(file: BinaryIO, entry: zip_archive.Entry) -> BytesIO:
    """An entry that is read whole, as a file of its own."""
    if entry.size > MOST_BYTES:
        raise RefusedError(f"has a pickle of {entry.size} bytes; at most {MOST_BYTES} are read")
    return BytesIO(zip_archive.read_entry(file, entry))


def _swap_bytes(content: memoryview, size: int) -> None:
    """From the other byte order, for elements of `size` bytes."""
    if size > 1:
        import numpy as np  # here because whoever reads a header needs none

        np.frombuffer(content, f"u{size}").byteswap(inplace=True)
