"""What a model file says of its tensors, by its content and not its ending. Nothing of it is run, nothing believed.

Without torch: a name, a shape and a type are no tensor, and to list models nothing else is read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from ..api.errors import BadModelError, first_line
from ..images.kinds import recognise
from .formats import torch_file, zip_archive
from .formats.errors import DamagedError, RefusedError, shown
from .formats.exported_file import ENDING, is_exported, open_exported
from .formats.records import StorageRecord, TensorRecord
from .formats.safetensors_file import is_safetensors, open_safetensors

MODEL_ENDINGS = (".safetensors", ".sft", ".pth", ".pt", ".ckpt", ".bin", ".pkl", ENDING)

_HEAD = 512  # bytes by which a file is known
_SHORTEST_TEXT = 12  # letters that are no accident
_TAR = slice(257, 262)
# Where training programs keep the weights: outermost first, and of two the smoothed ones.
_WRAPPERS = ("model_state_dict", "state_dict", "params_ema", "params-ema", "params", "model", "net")
_MOST_LAYERS_DEEP = 4
_MOST_TENSORS = 1 << 13  # the largest upscalers have some 3000
_LONGEST_NAME = 512
_LAYER_NUMBERS = (128, 1024)  # below the first in any model, since not all layers have tensors; never beyond the last
_MOST_SHARING, _ANY_SHARING = 4, 64 << 20  # times that stored bytes may be used on average; bytes in any case
_FLAGS = ("pro",)  # Real-CUGAN's


@dataclass(frozen=True)
class Header:
    """The tensors by name, out of the dictionaries that training programs put around them; `read(storage, into)` fills
    in a storage's bytes while the file is open. `flags` are names that tell an architecture by being there. `complete`:
    this tells that all of them are there; else reading them may find some missing, or wrong by their checksums."""

    tensors: dict[str, TensorRecord]
    read: Callable[[StorageRecord, memoryview], None]
    flags: tuple[str, ...] = ()
    complete: bool = False

    @property
    def stored_bytes(self) -> int:
        """Of all storages that tensors lie in, each once."""
        return sum(storage.size for storage in self._storages())

    def check_content(self) -> None:
        """Read all that is stored, a storage at a time, and forget it. Raises `DamagedError` and `RefusedError`."""
        for storage in self._storages():
            self.read(storage, memoryview(bytearray(storage.size)))

    def _storages(self) -> Iterable[StorageRecord]:
        return {tensor.storage.key: tensor.storage for tensor in self.tensors.values()}.values()


@contextmanager
def opened_model(path: Path) -> Iterator[Header]:
    """What the file `path` says of itself, which is open in the body.

    Read are safetensors files, and those by `torch.save` that hold weights and plain values: pickles are read by our
    own reader, which builds plain values and runs nothing. Raises `BadModelError` for a file that is missing, damaged,
    of another kind or ending, holds code, or is made to take more time or memory than its size explains; of what the
    body raises it makes one, too, where that is about the file.
    """
    try:
        with _opened(path) as file:
            yield _header(file, os.fstat(file.fileno()).st_size)
    except RefusedError as error:
        raise BadModelError(f"{path}: {error}") from error
    except DamagedError as error:
        raise BadModelError(f"{path}: is damaged or no model file; download it again ({first_line(error)})") from error
    except OSError as error:
        raise BadModelError(f"{path}: cannot be read: {error.strerror or error}") from error


def _opened(path: Path) -> BinaryIO:
    """The file, which is one: opening a pipe would wait for ever, and reading a device might."""
    try:
        status = path.stat()
    except (FileNotFoundError, ValueError):  # ValueError: a name with a zero byte
        raise BadModelError(f"{path}: does not exist; name a model file") from None
    if not stat.S_ISREG(status.st_mode):
        raise BadModelError(f"{path}: is not a file; name a model file")
    ending = path.suffix.lower()
    if ending not in MODEL_ENDINGS:
        raise BadModelError(f"{path}: cannot load {ending or 'a file without ending'}; use {', '.join(MODEL_ENDINGS)}")
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # changed since
        file.close()
        raise BadModelError(f"{path}: is not a file; name a model file")
    return file


def _header(file: BinaryIO, size: int) -> Header:
    head = file.read(_HEAD)
    if is_safetensors(head):
        opened = open_safetensors(file, size)
        header = Header(opened.records, opened.read, complete=True)
    elif is_exported(head):
        exported = open_exported(file, size)
        _check_names(exported.tensors.records)
        header = Header(exported.of_model, exported.tensors.read, complete=True)
    else:
        if head.startswith(zip_archive.SIGNATURE):
            saved = torch_file.open_archive(file, size)
        elif head.startswith(torch_file.PICKLE):
            saved = torch_file.open_legacy(file, size)
        else:
            raise RefusedError(_what_else(head))
        content = _model_in(saved.content)
        tensors = {name: value for name, value in content.items() if isinstance(value, TensorRecord)}
        flags = tuple(name for name in _FLAGS if name in content and name not in tensors)
        header = Header(tensors, saved.read, flags)
    _check_names(header.tensors)
    _check_sharing(header)
    return header


def _model_in(content: object) -> dict[Any, Any]:
    """The dictionary with a model's tensors: `content`, one in it, or one in that."""
    for _ in range(_MOST_LAYERS_DEEP):
        if not isinstance(content, dict):
            break
        inner = {name: value for name, value in content.items() if isinstance(value, dict) and value}
        known = next((inner[name] for name in _WRAPPERS if name in inner), None)
        if known is not None:
            content = known
        elif any(isinstance(value, TensorRecord) for value in content.values()):
            return content
        elif len(inner) == 1:
            (content,) = inner.values()
        elif inner:
            names = ", ".join(shown(name) for name in list(inner)[:8])
            raise RefusedError(f"holds several dictionaries ({names}), none of a known name; save the upscaler's alone")
        else:
            break
    raise RefusedError("holds no weights; use another file of this model")


def _check_names(names: Iterable[object]) -> None:
    """Refuse names that make whoever looks for a model in them work for ever: spandrel builds as many layers as the
    largest number tells."""
    names = list(names)
    if len(names) > _MOST_TENSORS:
        raise RefusedError(
            f"holds {len(names)} tensors; at most {_MOST_TENSORS} are read, and no upscaling model has more"
        )
    limit = min(max(len(names), _LAYER_NUMBERS[0]), _LAYER_NUMBERS[1])
    for name in names:
        if not isinstance(name, str) or len(name) > _LONGEST_NAME:
            raise RefusedError(f"names a tensor {shown(name)}; names are text of at most {_LONGEST_NAME} characters")
        for part in name.split("."):
            number = _number(part)
            if number is not None and not 0 <= number < limit:
                raise RefusedError(
                    f"has a layer of number {number} ({shown(name)}) and {len(names)} tensors; it may be {limit - 1}. "
                    "It is damaged or made to take for ever; use another file of this model"
                )


@lru_cache(maxsize=4096)  # a word comes many times, and what is no number takes ten times as long to tell
def _number(text: str) -> int | None:
    try:
        return int(text)  # as those who count layers do: it takes more than the ten digits
    except ValueError:
        return None


def _check_sharing(header: Header) -> None:
    held = header.stored_bytes
    used = sum(record.size for record in header.tensors.values())
    if used > max(_MOST_SHARING * held, _ANY_SHARING):
        raise RefusedError(f"has tensors of {used} bytes that share {held}; it is damaged or made to fill the memory")


def _what_else(head: bytes) -> str:
    """What a file is that begins with `head`, and cannot be read."""
    if not head:
        return "is damaged or no model file; download it again (it is empty)"
    if head[_TAR] == b"ustar":
        return "is a tar archive, too old a format; use a .safetensors file of this model"
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the model; download the file itself"
    if head.lstrip()[:1] == b"<":
        return "is a web page, not a model; download it again, signed in if need be"
    picture = recognise(head)
    if picture:
        return f"is a picture ({picture}), not a model"
    for beginning, kind, remedy in _OTHER_FILES:
        if head.startswith(beginning):
            return f"is {kind}; {remedy}"
    text = head[:60].decode("ascii", "replace")
    if len(text) >= _SHORTEST_TEXT and text.isprintable() and "\ufffd" not in text:
        return f"is text, not a model ({shown(text)}); download it again"
    return "is damaged or no model file; download it again"


_UNPACK, _ANOTHER = "unpack it and use the model file in it", "use a .safetensors or .pth file of this model"
_OTHER_FILES = (
    (b"GGUF", "a GGUF file", _ANOTHER),
    (b"ML\xefR", "a program of MLIR without weights", "use what 'cudaspeed export' writes, or the model's weights"),
    (b"\x89HDF", "an HDF5 file, as Keras writes them", _ANOTHER),
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"7z\xbc\xaf", "a 7-Zip archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"\xfd7zXZ", "an xz archive", _UNPACK),
    (b"BZh", "a bzip2 archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", _UNPACK),
    (b"\x47\x6b\x30\x01", "an ncnn model", _ANOTHER),
    (b"7767517", "an ncnn model", _ANOTHER),
    (b"L119547037146038801333356L", "saved with pickle protocol 0 or 1", "save it again with torch's own protocol"),
    (b"\x08", "an ONNX model, or damaged", _ANOTHER),
)
