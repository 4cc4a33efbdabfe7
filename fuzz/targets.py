"""What is fuzzed: each reader, the seeds for it, and the errors that it may raise. Any other is a find.

A reader also may not take long or much memory, which libFuzzer sees to (`__main__.py`), nor call anything by the names
in a file: `_ALARM` would be made.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from PIL import Image

from cudaspeed.api.errors import BadImageError, BadModelError
from cudaspeed.images.files import read_image
from cudaspeed.images.limits import DecodeLimits
from cudaspeed.models.weights import read_weights
from cudaspeed.storage.index import from_json

_FOLDER = Path(tempfile.mkdtemp(prefix="fuzz"))
_ALARM = _FOLDER / "alarm"
_LIMITS = DecodeLimits(max_megapixels=2)


@dataclass(frozen=True)
class Target:
    """One reader: `read` takes a file's bytes, and raises nothing but what it documents."""

    name: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[bytes], object]


def _model(ending: str) -> Callable[[bytes], object]:
    path = _FOLDER / f"model{ending}"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        with contextlib.suppress(BadModelError):
            read_weights(path)
        if _ALARM.exists():
            raise AssertionError("the file was obeyed")

    return read


def _picture(data: bytes) -> None:
    path = _FOLDER / "picture"
    path.write_bytes(data)
    try:
        picture = read_image(path, _LIMITS)
    except BadImageError:
        return
    if picture.pixels.dtype != np.float32 or picture.pixels.ndim != 3 or picture.pixels.shape[2] not in (1, 2, 3, 4):
        raise AssertionError(f"a picture of {picture.pixels.dtype} {picture.pixels.shape}")


def _index(data: bytes) -> None:
    for entry in from_json(data, lambda problem: None).values():
        json.dumps(entry.what)


class _Alarm:
    def __reduce__(self) -> Any:
        return os.mkdir, (str(_ALARM),)


def _states() -> list[dict[str, Any]]:
    torch.manual_seed(0)
    plain = {"body.0.weight": torch.randn(2, 3), "body.1.bias": torch.zeros(2, dtype=torch.float16)}
    return [
        plain,
        {"params_ema": plain, "epoch": 3},
        {"w": torch.nn.Parameter(torch.ones(2)), "size": torch.Size([1]), "t": torch.float32},
        {"loot": _Alarm(), **plain},
    ]


def _archives() -> list[bytes]:
    """Without checksums, since whatever is changed in an archive that has some is damage, and read no further."""
    torch.serialization.set_crc32_options(False)
    return _saved()


def _pickles() -> list[bytes]:
    return [pickle.dumps(value, protocol) for protocol in (2, 4) for value in ({"a": [1, 2.5, "x"]}, _Alarm())]


def _jpegs() -> list[bytes]:
    return [*_drawn(format="JPEG"), *_drawn(format="JPEG", progressive=True, restart_marker_blocks=1)]


def _webps() -> list[bytes]:
    return [*_drawn(format="WEBP"), *_drawn(format="WEBP", lossless=True), *_animated("WEBP")]


def _saved(**settings: Any) -> list[bytes]:
    files = []
    for state in _states():
        buffer = io.BytesIO()
        torch.save(state, buffer, **settings)
        files.append(buffer.getvalue())
    return files


def _safetensors() -> list[bytes]:
    headers: list[dict[str, Any]] = [
        {"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}},
        {"__metadata__": {"a": "b"}, "body.0.weight": {"dtype": "BF16", "shape": [8], "data_offsets": [0, 16]}},
        {
            "a": {"dtype": "I64", "shape": [], "data_offsets": [0, 8]},
            "b": {"dtype": "U8", "shape": [8], "data_offsets": [8, 16]},
        },
    ]
    texts = [json.dumps(header).encode() for header in headers]
    return [struct.pack("<Q", len(text)) + text + bytes(16) for text in texts]


def _indexes() -> list[bytes]:
    entry = {"what": {"model": "x"}, "state": "ready", "bytes": 5, "sha256": "a" * 64, "used": 1.5, "verified": True}
    return [json.dumps({"schema": 1, "entries": {"0" * 24: entry}}).encode(), b"{}", b"[]"]


def _drawn(**settings: Any) -> list[bytes]:
    """Small pictures in one of Pillow's formats, in the modes that it takes."""
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (9, 13, 4), dtype=np.uint8))
    files = []
    for mode in ("L", "LA", "RGB", "RGBA", "P", "1", "CMYK"):
        buffer = io.BytesIO()
        with contextlib.suppress(OSError, ValueError):  # a format without this mode
            colours.convert(mode).save(buffer, **settings)
            files.append(buffer.getvalue())
    return files


def _pngs() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    return [*_drawn(format="PNG"), *_drawn(format="PNG", dpi=(72, 72), exif=exif.tobytes(), icc_profile=b"x" * 200)]


def _animated(format_name: str) -> list[bytes]:
    frames = [Image.new("RGB", (9, 7), (value, 0, 255 - value)) for value in (0, 100, 200)]
    buffer = io.BytesIO()
    frames[0].save(buffer, format_name, save_all=True, append_images=frames[1:], duration=[10, 20, 30], loop=2)
    return [buffer.getvalue()]


def _tiffs() -> list[bytes]:
    rng = np.random.default_rng(0)
    files = []
    for samples, settings in (
        (rng.integers(0, 256, (9, 13, 3), dtype=np.uint8), {"photometric": "rgb"}),
        (rng.integers(0, 65536, (32, 32), dtype=np.uint16), {"tile": (16, 16), "compression": "zlib"}),
        (rng.random((9, 13, 4), dtype=np.float32), {"photometric": "rgb", "extrasamples": ("unassalpha",)}),
        (rng.integers(0, 256, (3, 9, 13), dtype=np.uint8), {"photometric": "rgb", "planarconfig": "separate"}),
        (rng.integers(0, 256, (9, 13), dtype=np.uint8), {"bigtiff": True, "compression": "lzw"}),
    ):  # fmt: skip
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, samples, **settings)
        files.append(buffer.getvalue())
    return [*files, *_drawn(format="TIFF")]


TARGETS = {
    target.name: target
    for target in (
        Target("archive", _archives, _model(".pth")),
        Target("legacy", lambda: _saved(_use_new_zipfile_serialization=False), _model(".ckpt")),
        Target("pickle", _pickles, _model(".pkl")),
        Target("safetensors", _safetensors, _model(".safetensors")),
        Target("index", _indexes, _index),
        Target("png", lambda: [*_pngs(), *_animated("PNG")], _picture),
        Target("jpeg", _jpegs, _picture),
        Target("webp", _webps, _picture),
        Target("tiff", _tiffs, _picture),
        Target("bmp", lambda: _drawn(format="BMP"), _picture),
        Target("gif", lambda: [*_drawn(format="GIF"), *_animated("GIF")], _picture),
    )
}
