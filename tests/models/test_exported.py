"""Files that `cudaspeed export` writes, as model files: with programs that nobody reads here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from safetensors.torch import save

from cudaspeed.api.errors import BadModelError
from cudaspeed.models.exported import exported_of, programs_in
from cudaspeed.models.formats.exported_file import ExportInfo
from cudaspeed.models.loader import find_models, load_model
from cudaspeed.scaleout.shipping import ShippedModel

PROGRAMS = {"fp32": {1: b"for one", 4: b"for four"}, "bf16": {1: b"by half"}}


def write(path: Path, **changes: Any) -> dict[str, torch.Tensor]:
    """A file with one weight of a name of its own, and one that is beside the model's. The model's state."""
    state = zoo.compact().model.state_dict()
    first = next(iter(state))
    info = ExportInfo(
        "0.10.2",
        ("cpu", "tpu"),
        (48, 64),
        {kind: {tiles: len(program) for tiles, program in programs.items()} for kind, programs in PROGRAMS.items()},
        {"module.first": first, "module.folded": "xla.module.folded"},
        frozenset({"xla.module.folded"}),
    )
    told = json.loads(info.to_bytes().partition(b"\n")[2]) | changes
    mark = info.to_bytes().partition(b"\n")[0]
    programs = b"".join(program for some in PROGRAMS.values() for program in some.values())
    tensors = {name: tensor.clone() for name, tensor in state.items()} | {"xla.module.folded": torch.arange(3)}
    path.write_bytes(b"\n".join([mark, json.dumps(told).encode(), programs + save(tensors)]))
    return state


def test_it_is_a_model_like_others(tmp_path: Path) -> None:
    state = write(tmp_path / "a.stablehlo")
    assert find_models([tmp_path]) == {"a.stablehlo": tmp_path / "a.stablehlo"}
    loaded = load_model(tmp_path / "a.stablehlo")
    assert {*loaded.model.state_dict()} == {*state}
    assert all(torch.equal(state[name], tensor) for name, tensor in loaded.model.state_dict().items())


def test_its_programs_are_known_with_the_weights_that_they_take(tmp_path: Path) -> None:
    state = write(tmp_path / "a.stablehlo")
    module = load_model(tmp_path / "a.stablehlo").model
    exported = exported_of(module)
    assert exported is not None
    assert (exported.info.tile, exported.info.platforms) == ((48, 64), ("cpu", "tpu"))
    for precision, programs in PROGRAMS.items():
        found = programs_in(exported, module, precision)
        assert found.programs == programs
        assert torch.equal(found.tensors["module.first"], next(iter(state.values())))
        assert found.tensors["module.folded"].tolist() == [0, 1, 2]


def test_they_go_with_it_to_other_machines(tmp_path: Path) -> None:
    write(tmp_path / "a.stablehlo")
    (tmp_path / "there").mkdir()
    shipped = ShippedModel.read(tmp_path / "a.stablehlo").write(tmp_path / "there")
    module = load_model(shipped).model
    exported = exported_of(module)
    assert exported is not None
    assert programs_in(exported, module, "bf16").programs == PROGRAMS["bf16"]


def test_of_other_models_none_are(tmp_path: Path) -> None:
    assert exported_of(load_model("cudaspeed-compact-x2").model) is None


def test_they_are_not_taken_for_weights_that_became_others(tmp_path: Path) -> None:
    write(tmp_path / "a.stablehlo")
    module = load_model(tmp_path / "a.stablehlo").model
    exported = exported_of(module)
    assert exported is not None
    with torch.no_grad():
        next(module.parameters()).add_(1)
    with pytest.raises(ValueError, match="has other weights than the model has by now"):
        programs_in(exported, module, "fp32")


def test_nor_from_a_file_that_became_another(tmp_path: Path) -> None:
    write(tmp_path / "a.stablehlo")
    module = load_model(tmp_path / "a.stablehlo").model
    exported = exported_of(module)
    assert exported is not None
    write(tmp_path / "a.stablehlo", platforms=["cuda"])
    with pytest.raises(ValueError, match="was replaced since the model was loaded"):
        programs_in(exported, module, "fp32")


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing behind its first line": (lambda content: content[:28], "what it says of itself is damaged"),
    "cut in its line": (lambda content: content[:80], "what it says of itself is damaged"),
    "cut in its programs": (lambda content: content[: content.index(b"for four") + 3], "cut short"),
    "cut in its tensors": (lambda content: content[:-5], "cut short"),
    "another version": (lambda content: content.replace(b"model 1\n", b"model 2\n"), "another version of cudaspeed"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_sentence(damage: str, tmp_path: Path) -> None:
    write(tmp_path / "a.stablehlo")
    change, told = DAMAGE[damage]
    (tmp_path / "a.stablehlo").write_bytes(change((tmp_path / "a.stablehlo").read_bytes()))
    with pytest.raises(BadModelError, match=told) as raised:
        load_model(tmp_path / "a.stablehlo")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"jax": 10},
        {"jax": "0\n1"},
        {"platforms": []},
        {"platforms": ["cpu"] * 99},
        {"tile": [48]},
        {"tile": [48, -1]},
        {"tile": [True, 48]},
        {"programs": {}},
        {"programs": {"fp32": {"4": 7}}},
        {"programs": {"fp32": {"1": -7}}},
        {"programs": {"fp32": {"1": 1 << 60}}},
        {"programs": {"fp32": {"1": 7, "9999": 7}}},
        {"programs": [1]},
        {"arguments": {"a": 1}},
        {"arguments": {"a": "no tensor"}},
        {"beside": ["no tensor"]},
        {"beside": 3},
    ],
)
def test_what_it_says_is_not_believed(changes: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path / "a.stablehlo", **changes)
    with pytest.raises(BadModelError, match="damaged"):
        load_model(tmp_path / "a.stablehlo")


def test_a_program_without_weights_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.stablehlo").write_bytes(b"ML\xefR\rStableHLO_v1.15.0" + bytes(300))
    with pytest.raises(BadModelError, match="program of MLIR without weights; use what 'cudaspeed export' writes"):
        load_model(tmp_path / "a.stablehlo")
