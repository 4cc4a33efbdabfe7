"""Model files made to run code, to take all memory or to take for ever: each is refused, and the others are listed."""

from __future__ import annotations

import io
import os
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import hostile_models as made
import pytest
import torch
from children import run_limited
from safetensors.torch import save as save_safetensors

from cudaspeed.api.errors import BadModelError
from cudaspeed.models.loader import load_model

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits of memory and pipes are those of Unix")

F32 = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def nested(depth: int, opened: bytes, closed: bytes) -> bytes:
    return b"\x80\x02" + opened * depth + closed * depth + b"."


def reduce_of(name: bytes, arguments: bytes = b")") -> bytes:
    return b"\x80\x02}X\x01\x00\x00\x00wc" + name + b"\n" + arguments + b"Rs."


def dotted(name: str) -> bytes:
    """A name of protocol 4, in which dots may lead from what is allowed to what is not."""
    module, attribute = "collections", name
    text = b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, attribute))
    return b"\x80\x04}\x8c\x01w" + text + b"\x93)Rs."


def overlapping() -> bytes:
    """Two entries of one place: what is stored once is read twice."""
    archive = bytearray(made.state_zip(made.tensor_program(), {"0": bytes(24), "1": bytes(24)}))
    first = archive.index(b"archive/data/0", archive.index(b"PK\x01\x02")) - 46
    second = archive.index(b"archive/data/1", archive.index(b"PK\x01\x02")) - 46
    archive[second + 42 : second + 46] = archive[first + 42 : first + 46]
    return bytes(archive)


def colliding_keys() -> bytes:
    """Integers of one hash: a dictionary compares each of them with all others."""
    keys = (b"\x8a\x0b" + (number * (2**61 - 1)).to_bytes(11, "little") + b"N" for number in range(300_000))
    return b"\x80\x02}(" + b"".join(keys) + b"u."


def padded() -> bytes:
    """A model whose every numbered part goes up to 1023, and thousands of names that let it."""
    state = made.tiny_state()
    for name in list(state):
        state[re.sub(r"\.\d+\.", ".1023.", name)] = torch.zeros(1)
    state |= {f"pad{number}": torch.zeros(0) for number in range(7000)}
    state["body.0.weight"] = torch.zeros(512, 3, 3, 3)
    return made.saved(state)


def wrong_checksum() -> bytes:
    archive = bytearray(made.saved(made.tiny_state()))
    archive[archive.index(b"archive/data/0") + 200] ^= 1
    return bytes(archive)


# Name -> (content, what the error must say); none of them may make the marker.
ATTACKS: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "torchscript.pth": (lambda m: made.torchscript(m), "TorchScript"),
    "two-directories.pth": (lambda m: made.two_directories(made.torchscript(m), {"a": b"b"}), "directory"),
    "tar-and-zip.pth": (lambda m: made.tar_with_the_end_of_a_zip(), "tar archive"),
    "pickle.pth": (lambda m: pickle.dumps(made.Call(os.mkdir, str(m)), protocol=2), r"run posix\.mkdir"),
    "pickle-4.ckpt": (lambda m: pickle.dumps(made.Call(os.mkdir, str(m)), protocol=4), r"run posix\.mkdir"),
    "pickle-0.pt": (lambda m: pickle.dumps(made.Call(os.mkdir, str(m)), protocol=0), "no model file"),
    "inside.pth": (lambda m: made.saved({"a": made.Call(os.mkdir, str(m))}), r"run posix\.mkdir"),
    "inside-old.pth": (
        lambda m: made.saved({"a": made.Call(os.mkdir, str(m))}, _use_new_zipfile_serialization=False),
        r"run posix\.mkdir",
    ),
    "eval.bin": (lambda m: reduce_of(b"builtins\neval"), r"run builtins\.eval"),
    "getattr.pkl": (lambda m: reduce_of(b"builtins\ngetattr"), r"run builtins\.getattr"),
    "torch-load.pth": (lambda m: reduce_of(b"torch\nload"), r"run torch\.load"),
    "torch-hub.pth": (lambda m: reduce_of(b"torch.hub\nload"), r"run torch\.hub\.load"),
    "dotted.pth": (lambda m: dotted("OrderedDict.__init__"), r"run collections\.OrderedDict\.__init__"),
    "memo.pth": (lambda m: b"\x80\x02Nr\xff\xff\xff\x7f.", "holds no weights"),
    "long.pth": (lambda m: b"\x80\x02\x8b\xff\xff\xff\x7f.", "absurdly long number"),
    "text.pth": (lambda m: b"\x80\x02X\xff\xff\xff\xff", "more than 67108864 bytes"),
    "text-8.pth": (lambda m: b"\x80\x04\x8d" + b"\xff" * 8, "no model file"),
    "deep-tuples.pth": (lambda m: nested(1_500_000, b"(", b"t"), "holds no weights"),
    "deep-key.pth": (lambda m: b"\x80\x02}" + b")" + b"\x85" * 1_500_000 + b"Ns.", "holds no weights"),
    "dictionaries.pth": (lambda m: b"\x80\x02" + b"}" * 5_000_000 + b".", "instructions"),
    "pairs.pth": (
        lambda m: (
            b"\x80\x02ccollections\nOrderedDict\nq\x00]q\x01("
            + b"(X\x01\x00\x00\x00kNl" * 200_000
            + b"e0"
            + b"h\x00h\x01\x85R0" * 500_000
            + b"."
        ),
        "make more than",
    ),
    "colliding.pth": (lambda m: colliding_keys(), "numbers as keys"),
    "escape.pth": (lambda m: b"\x80\x04\x8c\x09\x1b[2Jevil\n\x8c\x01b\x93.", r"run \\x1b\[2Jevil\\n\.b"),
    "endless-name.pth": (
        lambda m: b"\x80\x04X\x00\x00\x00\x01" + b"a" * (1 << 24) + b"\x8c\x01b\x93.",
        r"run a{80}\.\.\.",
    ),
    "empty-and-endless.pth": (
        lambda m: made.state_zip(made.tensor_program(shape="(K\x00\x8a\x09" + "\x00" * 8 + "\x01t"), {"0": bytes(24)}),
        "shape that is none",
    ),
    "arguments.pth": (
        lambda m: (
            b"\x80\x02ccollections\ndefaultdict\nq\x00("
            + b"N" * 300_000
            + b"tq\x01"
            + b"h\x00h\x01R0" * 30_000
            + b"."
        ),
        "cannot be called",
    ),
    "subclass.pth": (
        lambda m: (
            b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\nq\x00(ctorch._utils\n_rebuild_tensor_v2\nN("
            + b"N" * 300_000
            + b"tNtq\x01"
            + b"h\x00h\x01R0" * 30_000
            + b"."
        ),
        "is none",
    ),
    "calls.pth": (
        lambda m: b"\x80\x02ccollections\nOrderedDict\nq\x00)q\x01" + b"h\x00h\x01R0" * 500_000 + b".",
        "make more than",
    ),
    "five-pickles.pth": (
        lambda m: (
            (b"\x80\x02" + b"N0" * 900_000 + b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
            + (b"\x80\x02" + b"N0" * 900_000 + b"M\xe9\x03.")
            + (b"\x80\x02" + b"N0" * 900_000 + b"}.") * 3
        ),
        "instructions",
    ),
    "left-over.pth": (lambda m: b"\x80\x02NN.", "more than one value"),
    "empty-of-2e56.pth": (
        lambda m: made.state_zip(
            made.tensor_program(
                shape="(" + "\x8a\x06" + "\x00" * 5 + "\x10" + "\x8a\x06" + "\x00" * 5 + "\x10" + "K\x00t",
                strides="(K\x00K\x00K\x00t",
            ),
            {"0": bytes(24)},
        ),
        "larger than memory",
    ),
    "padded.pth": (lambda m: padded(), "far more"),
    "list-of-itself.pth": (lambda m: b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.", "holds no weights"),
    "attributes.pth": (lambda m: b"\x80\x02X\x01\x00\x00\x00aX\x01\x00\x00\x00bb.", "holds no weights"),
    "outside.pth": (lambda m: made.state_zip(made.tensor_program(offset=b"K\x05"), {"0": bytes(24)}), "does not fit"),
    "expanded.pth": (
        lambda m: made.state_zip(
            made.tensor_program(shape="(J\xff\xff\xff\x7fK\x03t", strides="(K\x00K\x01t"), {"0": bytes(24)}
        ),
        "made to fill the memory",
    ),
    "negative.pth": (
        lambda m: made.state_zip(made.tensor_program(offset=b"J\xff\xff\xff\xff"), {"0": bytes(24)}),
        "none",
    ),
    "short-storage.pth": (lambda m: made.state_zip(made.tensor_program(), {"0": bytes(20)}), "not as long"),
    "no-storage.pth": (lambda m: made.state_zip(made.tensor_program(), {}), "missing"),
    "overlap.pth": (lambda m: overlapping(), "says otherwise|lies in another"),
    "checksum.pth": (lambda m: wrong_checksum(), "checksum"),
    "bomb.pth": (
        lambda m: made.zip_of({"archive/data.pkl": bytes(1 << 28)}, zipfile.ZIP_DEFLATED),
        "compressed archive",
    ),
    "layer.safetensors": (lambda m: save_safetensors(made.numbered(2_000_000_000)), "layer of number 2000000000"),
    "layer.pth": (lambda m: made.saved({"params_ema": made.numbered(5_000)}), "layer of number 5000"),
    "layer-digits.pth": (
        lambda m: made.saved({**made.tiny_state(), "body.٢٠٠٠٠٠٠٠٠.weight": torch.zeros(1)}),
        "layer of number 200000000",
    ),
    "layer-minus.pth": (lambda m: made.saved({**made.tiny_state(), "body.-5.weight": torch.zeros(1)}), "number -5"),
    "window.pth": (lambda m: made.saved(made.large_window()), "far more memory|do not fit"),
    "header.safetensors": (lambda m: made.safetensors(b"{" + b" " * (17 << 20)), "header of"),
    "header-length.safetensors": (lambda m: made.safetensors(b"{}", length=1 << 55), "header of"),
    "header-nested.safetensors": (lambda m: made.safetensors(b'{"a":' + b"[" * 1_000_000), "damaged"),
    "offsets.safetensors": (
        lambda m: made.safetensors({"w": {**F32, "data_offsets": [0, 1 << 60], "shape": [1 << 58]}}, bytes(16)),
        "damaged",
    ),
    "shape.safetensors": (lambda m: made.safetensors({"w": {**F32, "shape": [0, 1 << 63]}}), "shape that is none"),
    "type.safetensors": (lambda m: made.safetensors({"w": {**F32, "dtype": "\x1b[2Jevil"}}), r"type \\x1b\[2Jevil"),
    "twins.safetensors": (lambda m: made.safetensors(b'{"w":{},"w":{}}'), "no JSON, or damaged"),
    "overlap.safetensors": (lambda m: made.safetensors({"a": F32, "b": F32}, bytes(16)), "does not begin where"),
    "hole.safetensors": (lambda m: made.safetensors({"a": {**F32, "data_offsets": [4, 20]}}, bytes(20)), "begin where"),
    "list.safetensors": (lambda m: made.safetensors({"a": [], "b": 3}, bytes(16)), "tells nothing of"),
    "tensors.safetensors": (
        lambda m: made.safetensors({f"a.{i}": {**F32, "shape": [0], "data_offsets": [0, 0]} for i in range(70_000)}),
        "70000 tensors",
    ),
    "name.safetensors": (lambda m: made.safetensors({"a." * 500_000: F32}, bytes(16)), "characters"),
}  # fmt: skip


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict], Path, int]:
    """`cudaspeed models` over all of them and one good model: its records by name, the marker, the most memory."""
    folder = tmp_path_factory.mktemp("hostile") / "models"
    marker = folder.parent / "marker"
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch speaks ill of its own TorchScript
        for name, (content, _) in ATTACKS.items():
            (folder / name).write_bytes(content(marker))
    marker.unlink(missing_ok=True)
    (folder / "good.pth").write_bytes(made.saved(made.tiny_state()))
    os.mkfifo(folder / "pipe.pth")
    with (folder / "sparse.pth").open("wb") as file:
        file.write(b"\x80\x02")
        file.truncate(1 << 40)
    environment = {"CUDASPEED_MODELS": str(folder)}
    ended = run_limited(["-m", "cudaspeed.cli", "models", "--json"], environment, seconds=300)
    assert ended.code == 0, ended.err
    return {record["name"]: record for record in ended.records}, marker, ended.peak_bytes


@pytest.mark.parametrize("name", ATTACKS)
def test_it_is_refused_with_its_reason_and_nothing_is_run(listed: tuple[dict, Path, int], name: str) -> None:
    records, marker, _ = listed
    assert re.search(ATTACKS[name][1], records[name]["error"]), records[name]
    assert name in records[name]["error"]
    assert not marker.exists()


def test_the_rest_is_listed_and_memory_stays_bounded(listed: tuple[dict, Path, int]) -> None:
    records, _, peak = listed
    assert records["good.pth"]["scale"] == 2
    assert "error" in records["sparse.pth"]
    assert "pipe.pth" not in records  # no regular file: opening it would wait for ever
    assert peak < 2.5e9, f"{peak / 1e9:.1f} GB"


def test_a_pipe_and_a_device_are_no_models(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "zero.pth").symlink_to("/dev/zero")
    for name in ("pipe.pth", "zero.pth"):
        with pytest.raises(BadModelError, match="is not a file"):
            load_model(tmp_path / name)


def test_the_traps_are_real_ones(tmp_path: Path) -> None:
    """A reader that trusts the file walks into them; where torch no longer does, the test says so."""
    marker = tmp_path / "marker"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trap = made.two_directories(made.torchscript(marker), {"a": b"b"})
        marker.unlink(missing_ok=True)
        assert zipfile.ZipFile(io.BytesIO(trap)).namelist() == ["a"]
        (tmp_path / "trap.pth").write_bytes(trap)
        try:
            torch.jit.load(tmp_path / "trap.pth")
        except RuntimeError as error:
            pytest.skip(f"this torch does not read such an archive: {error}")
    assert marker.exists()
