"""Weights in every wrapping that training programs and hubs give them are read, bit for bit as torch reads them."""

import io
import sys
import zipfile
from argparse import Namespace
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile_models import saved, tiny_state, zip_of
from safetensors.torch import save as save_safetensors
from spandrel.architectures.RealCUGAN import UpCunet2x
from torch import nn

from cudaspeed.api.errors import BadModelError
from cudaspeed.models import weights as reading
from cudaspeed.models.loader import load_model
from cudaspeed.models.weights import read_weights


def parameters() -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(tensor) for name, tensor in tiny_state().items()}


WRAPPINGS = {
    "bare": tiny_state,
    "ordered": lambda: OrderedDict(tiny_state()),
    "parameters": parameters,
    "params": lambda: {"params": tiny_state()},
    "params_ema": lambda: {"params": {"other": torch.zeros(1)}, "params_ema": tiny_state()},
    "state_dict of params_ema": lambda: {"state_dict": {"params_ema": tiny_state()}, "epoch": 3},
    "unknown name": lambda: {"generator": tiny_state(), "step": 7},
    "checkpoint": lambda: {
        "model": tiny_state(),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.99)}]},
        "args": Namespace(scale=2, name="x"),
        "loss": np.float64(0.5),
        "history": np.zeros(3),
        "path": Path("x"),
        "seen": {1, 2},
        "counts": defaultdict(list),
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "size": torch.Size([1, 2]),
        "callbacks": {Namespace: {"best": None}, (1, 2): 3, torch.float32: 4},
        "number": 1j,
        "sparse": torch.eye(3).to_sparse(),
        "scales": range(3),
    },
    "an empty params_ema beside": lambda: {"params": tiny_state(), "params_ema": {}},
    "one number a thousand times": lambda: {**tiny_state(), "extra": {"a": torch.zeros(1).expand(1000)}},
    "with numbers beside": lambda: {**tiny_state(), "epoch": 3},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("form", ["zip", "legacy", "protocol 4"])
def test_a_model_loads_from_whatever_is_around_it(tmp_path: Path, wrapping: str, form: str) -> None:
    settings = {
        "zip": {},
        "legacy": {"_use_new_zipfile_serialization": False},
        "protocol 4": {"pickle_protocol": 4},
    }[form]
    (tmp_path / "model.bin").write_bytes(saved(WRAPPINGS[wrapping](), **settings))
    found = read_weights(tmp_path / "model.bin")
    assert list(found) == list(tiny_state())
    assert all(torch.equal(found[name], tensor) for name, tensor in tiny_state().items())
    assert load_model(tmp_path / "model.bin").scale == 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("swapped.pth", lambda: save_safetensors(tiny_state())),
        ("swapped.ckpt", lambda: save_safetensors(tiny_state())),
        ("swapped.safetensors", lambda: saved(tiny_state())),
        ("swapped-old.safetensors", lambda: saved(tiny_state(), _use_new_zipfile_serialization=False)),
        ("model.sft", lambda: save_safetensors(tiny_state())),
        ("model.pkl", lambda: saved(tiny_state())),
    ],
)
def test_the_content_decides_and_not_the_ending(tmp_path: Path, name: str, content) -> None:
    (tmp_path / name).write_bytes(content())
    assert load_model(tmp_path / name).scale == 2


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().flatten().view(torch.uint8)


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_every_kind_of_tensor_is_what_torch_reads(tmp_path: Path, form: str) -> None:
    torch.manual_seed(0)
    base = torch.randn(6, 7, 5)
    types = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8]
    tensors = {str(dtype): (base * 50).to(dtype) for dtype in (*types, torch.uint8, torch.bool)}
    tensors |= {
        "transposed": base.permute(2, 0, 1),
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "part": base[1:4, ::2, 1:],
        "of the same": base,
        "empty": torch.zeros(0, 3),
        "number": torch.tensor(3.5),
        "attribute": nn.Parameter(torch.ones(2)),
    }
    tensors["attribute"].kind = "special"  # type: ignore[attr-defined]
    if form == "zip":
        tensors["f8"] = base.to(torch.float8_e4m3fn)
        tensors["u16"] = torch.arange(5).to(torch.uint16)
    path = tmp_path / "model.pth"
    torch.save(tensors, path, _use_new_zipfile_serialization=form == "zip")
    found = read_weights(path)
    assert list(found) == list(tensors)
    for name, tensor in torch.load(path, weights_only=False).items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].stride() == tensor.stride(), name
        assert torch.equal(as_bytes(found[name]), as_bytes(tensor)), name
    assert found["part"].untyped_storage().data_ptr() == found["of the same"].untyped_storage().data_ptr()


def test_the_other_byte_order_is_read(tmp_path: Path) -> None:
    """As torch saves on a big-endian machine: each number the other way round, and a record that says so."""
    other = {"little": "big", "big": "little"}[sys.byteorder]
    source = zipfile.ZipFile(io.BytesIO(saved({"a": torch.arange(5.0), "b": torch.arange(3)})))
    files = {name: source.read(name) for name in source.namelist()}
    files["archive/byteorder"] = other.encode()
    files["archive/data/0"] = np.arange(5, dtype=np.float32).byteswap().tobytes()
    files["archive/data/1"] = np.arange(3, dtype=np.int64).byteswap().tobytes()
    (tmp_path / "model.pth").write_bytes(zip_of(files))
    found = read_weights(tmp_path / "model.pth")
    assert torch.equal(found["a"], torch.arange(5.0))
    assert torch.equal(found["b"], torch.arange(3))


def test_an_archive_without_checksums_is_read(tmp_path: Path) -> None:
    """torch can be told to leave them out, for speed; a changed one is damage."""
    settings = getattr(torch.serialization, "set_crc32_options", None)
    if settings is None:
        pytest.skip("this torch always writes checksums")
    settings(False)
    try:
        (tmp_path / "model.pth").write_bytes(saved(tiny_state()))
    finally:
        settings(True)
    assert load_model(tmp_path / "model.pth").scale == 2


def test_only_what_the_model_needs_is_read(tmp_path: Path) -> None:
    """A checkpoint's optimiser is twice as large as its model; here it is even damaged, and nobody minds."""
    content = bytearray(saved({"params": tiny_state(), "optimizer": {"state": torch.full((5000,), 7.25)}}))
    at = content.index(np.full(4, 7.25, np.float32).tobytes())
    content[at] ^= 1
    (tmp_path / "model.pth").write_bytes(content)
    assert load_model(tmp_path / "model.pth").scale == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><title>Sign in</title>", "is a web page"),
        (b"  <html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "pointer of Git LFS"),
        (b"GGUF\x03\x00\x00\x00", "is a GGUF file"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
        (bytes(300), "is damaged or no model file"),
        (b"Invalid username or password.", r"is text, not a model \(Invalid username"),
        (b"\x1f\x8b\x08" + bytes(20), "is a gzip archive"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), r"is a picture \(PNG\)"),
        (b"\x47\x6b\x30\x01" + bytes(20), "is an ncnn model"),
        (zip_of({"readme.txt": b"x"}), "is an archive, but none that torch.save writes"),
    ],
)
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_other_files_are_called_what_they_are(tmp_path: Path, content: bytes, message: str, ending: str) -> None:
    path = tmp_path / f"model{ending}"
    path.write_bytes(content)
    with pytest.raises(BadModelError, match=message):
        read_weights(path)


def test_several_models_of_unknown_names_are_told_apart(tmp_path: Path) -> None:
    torch.save({"gen": tiny_state(), "disc": tiny_state()}, tmp_path / "model.pth")
    with pytest.raises(BadModelError, match="gen, disc"):
        read_weights(tmp_path / "model.pth")


@pytest.mark.parametrize("form", ["zip", "safetensors"])
def test_weights_beyond_the_memory_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(saved(tiny_state()) if form == "zip" else save_safetensors(tiny_state()))
    monkeypatch.setattr(reading, "free_host_bytes", lambda: 1000)
    with pytest.raises(BadModelError, match=r"holds 0\.0 GB, and 0\.0 GB of memory are free"):
        read_weights(path)


def test_the_name_that_tells_an_architecture_is_kept(tmp_path: Path) -> None:
    """Real-CUGAN's pro models are told by a name whose value is no tensor; without it their colours are wrong."""
    torch.manual_seed(0)
    torch.save({**UpCunet2x().state_dict(), "pro": ""}, tmp_path / "pro.pth")
    assert "pro" in load_model(tmp_path / "pro.pth").tags


def test_elements_that_lie_together_may_be_used_more_than_once(tmp_path: Path) -> None:
    tensors = {"w": torch.arange(3.0).expand(4, 3), "v": torch.ones(1).expand(1000)}
    torch.save(tensors, tmp_path / "model.pth")
    found = read_weights(tmp_path / "model.pth")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_a_tensor_that_means_the_negative_of_its_bytes_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.complex(torch.ones(3), torch.ones(3)).conj().imag}, tmp_path / "model.pth")
    with pytest.raises(BadModelError, match="conjugate or negative"):
        read_weights(tmp_path / "model.pth")


def test_weights_stay_what_they_were_when_the_file_is_written_to(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(save_safetensors(tiny_state()))
    found = read_weights(path)
    path.write_bytes(bytes(path.stat().st_size))
    assert all(torch.equal(found[name], tensor) for name, tensor in tiny_state().items())


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_old_pickles_are_told_as_such(tmp_path: Path, form: str) -> None:
    torch.save(tiny_state(), tmp_path / "m.pth", pickle_protocol=1, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(BadModelError, match="protocol 0 or 1"):
        read_weights(tmp_path / "m.pth")


def test_the_content_of_what_is_not_needed_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"weight": torch.ones(3), "mask": torch.full((500,), 3.0)}, path)
    content = path.read_bytes()
    place = content.index(torch.full((500,), 3.0).numpy().tobytes())
    path.write_bytes(content[:place] + bytes(4) + content[place + 4 :])
    with pytest.raises(BadModelError, match="checksum"):
        read_weights(path)
    assert list(read_weights(path, needed=lambda name: name != "mask")) == ["weight"]
