"""Model files that attack whoever reads them, built in code; `marker` is what they would make if they got their way."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from spandrel.architectures.Compact import Compact
from spandrel.architectures.SwinIR import SwinIR

END = struct.Struct("<4s2H2H2IH")
END_64 = struct.Struct("<4sQ2H2I2Q2Q")
LOCATOR_64 = struct.Struct("<4sIQI")


def tiny_state(scale: int = 2) -> dict[str, torch.Tensor]:
    """The weights of a model that loads."""
    torch.manual_seed(0)
    return Compact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=scale).state_dict()


def saved(content: object, **settings: Any) -> bytes:
    """As `torch.save` writes it."""
    buffer = io.BytesIO()
    torch.save(content, buffer, **settings)
    return buffer.getvalue()


class Call:
    """Unpickled by an ordinary unpickler, it calls `function`."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.what = function, arguments

    def __reduce__(self) -> Any:
        return self.what


def zip_of(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def state_zip(program: bytes, storages: dict[str, bytes] | None = None) -> bytes:
    """An archive as torch writes it, around a pickle of our own."""
    data = {f"archive/data/{key}": content for key, content in (storages or {}).items()}
    return zip_of({"archive/data.pkl": program, "archive/version": b"3\n", **data})


def torchscript(marker: Path) -> bytes:
    """A program that torch runs while it loads it: it saves a tensor to `marker`."""

    class Burglar(torch.nn.Module):
        def __init__(self, path: str) -> None:
            super().__init__()
            self.path = path

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

        @torch.jit.export
        def __getstate__(self) -> tuple[str, bool]:
            return (self.path, self.training)

        @torch.jit.export
        def __setstate__(self, state: tuple[str, bool]) -> None:
            self.path = state[0]
            self.training = state[1]
            torch.save(torch.zeros(1), self.path)

    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(Burglar(str(marker))), buffer)
    return buffer.getvalue()


def two_directories(seen_by_torch: bytes, seen_by_python: dict[str, bytes]) -> bytes:
    """An archive with two records for 64 bits: the locator names the first, and the second lies just before it."""
    end_at = len(seen_by_torch) - END.size
    *_, count, length, place, _ = END.unpack(seen_by_torch[end_at:])
    if seen_by_torch[end_at - LOCATOR_64.size :][:4] == b"PK\x06\x07":
        record = end_at - LOCATOR_64.size - END_64.size
        *_, count, length, place = END_64.unpack(seen_by_torch[record : record + END_64.size])
    body = bytearray(seen_by_torch[: place + length])
    first = len(body)
    body += END_64.pack(b"PK\x06\x06", END_64.size - 12, 45, 45, 0, 0, count, count, length, place)
    # The harmless entries, their directory, and the record where Python looks for it.
    harmless = zip_of(seen_by_python)
    *_, count, length, place, _ = END.unpack(harmless[-END.size :])
    start = len(body)
    body += harmless[:place]
    listing = bytearray(harmless[place : place + length])
    position = 0
    while position < len(listing):  # the places of the entries have moved
        name, extra, comment = struct.unpack_from("<3H", listing, position + 28)
        (at,) = struct.unpack_from("<I", listing, position + 42)
        struct.pack_into("<I", listing, position + 42, at + start)
        position += 46 + name + extra + comment
    place = len(body)
    body += listing
    body += END_64.pack(b"PK\x06\x06", END_64.size - 12, 45, 45, 0, 0, count, count, length, place)
    body += LOCATOR_64.pack(b"PK\x06\x07", 0, first, 1)
    body += END.pack(b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return bytes(body)


def tar_with_the_end_of_a_zip() -> bytes:
    """torch's format of 2016, which Python's zipfile takes for an empty archive because of its last 22 bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            member = tarfile.TarInfo(name)
            if name == "storages":
                member.type = tarfile.FIFOTYPE  # whoever opens it waits for ever
            archive.addfile(member)
    return buffer.getvalue() + END.pack(b"PK\x05\x06", 0, 0, 0, 0, 0, 0, 0)


def safetensors(header: dict[str, Any] | bytes, content: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + content


def tensor_program(
    shape: str = "(K\x02K\x03t", strides: str = "(K\x03K\x01t", count: bytes = b"K\x06", offset: bytes = b"K\x00"
) -> bytes:
    """A pickle of {"w": a tensor} in torch's words, with numbers of one's own."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + count + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset
    tensor += shape.encode("latin-1") + strides.encode("latin-1") + b"\x89ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02}X\x01\x00\x00\x00w" + tensor + b"s."


def numbered(number: int, weights: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """The weights of a model with one layer more, of that number."""
    state = dict(weights or tiny_state())
    state[f"body.{number}.weight"] = torch.zeros(1)
    return state


def large_window() -> dict[str, torch.Tensor]:
    """A SwinIR whose table of positions is one of a window of 320 pixels a side: tables of tens of gigabytes."""
    state = SwinIR(
        img_size=16, window_size=8, depths=[2], embed_dim=12, num_heads=[2], upscale=2, upsampler="pixelshuffle"
    ).state_dict()
    for name in state:
        if name.endswith("relative_position_bias_table"):
            state[name] = torch.zeros(639 * 639, 2)
        if name.endswith("relative_position_index"):
            state[name] = torch.zeros(1, 1, dtype=torch.int64).expand(320 * 320, 1).clone()
    return state
