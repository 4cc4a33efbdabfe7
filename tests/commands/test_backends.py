"""`cudaspeed backends`: which engines there are, for which devices here, and how the others are installed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cudaspeed.backends import packages
from cudaspeed.backends.offer import ENGINES
from cudaspeed.backends.packages import PACKAGES, XLA
from cudaspeed.cli import main
from cudaspeed.devices.nvidia_cards import NvidiaCard
from cudaspeed.storage import fingerprint

GEFORCE, HOPPER = NvidiaCard("NVIDIA GeForce RTX 4090", (8, 9)), NvidiaCard("NVIDIA H100", (9, 0))


class Machine:
    """What is installed, by version, and which cards there are."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.versions = {"torch": "2.11.0"}
        self.cards: list[NvidiaCard] = []
        monkeypatch.setattr(packages, "installed_version", lambda name: self.versions.get(name, ""))
        monkeypatch.setattr("cudaspeed.commands.backends.nvidia_cards", lambda: self.cards)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def records(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    assert main(["backends", "--json"]) == 0
    told = map(json.loads, capsys.readouterr().out.splitlines())
    return {record["engine"]: record for record in told}


def lines(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    assert main(["backends"]) == 0
    return {line.split()[0]: " ".join(line.split()[1:]) for line in capsys.readouterr().out.splitlines()}


def test_all_engines_are_listed(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    listed = records(capsys)
    assert {"aotinductor", *(engine.name for engine in ENGINES)} <= {*listed}
    assert [*listed] == [package.engine for package in PACKAGES]


def test_each_belongs_to_what_a_compiled_model_is_known_by() -> None:
    """So that what another version made is made anew. What is never chosen by itself is known by its name alone, or all
    else would be made anew with it (tests/backends/test_xla.py)."""
    for package in PACKAGES[1:]:
        if package is not XLA:
            assert {*package.distributions} <= {*fingerprint._ENGINES[package.kind]}


def test_without_a_card_there_is_torchs_own_and_the_others_are_for_nothing_here(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    told = records(capsys)
    assert (told["aotinductor"]["version"], told["aotinductor"]["devices"]) == ("2.11.0", ["CPU"])
    assert told["aotinductor"]["missing"] is None
    for name in ("tensorrt", "tensorrt-rtx"):
        assert (told[name]["version"], told[name]["devices"]) == (None, [])
    line = lines(capsys)["tensorrt"]
    assert line.startswith("not installed for no device that is seen here")
    assert line.endswith("pip install tensorrt onnxscript")


def test_each_card_is_named_where_it_would_be_used(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.cards = [GEFORCE, HOPPER]
    told = records(capsys)
    assert told["aotinductor"]["devices"] == ["CPU", GEFORCE.name, HOPPER.name]
    assert told["tensorrt"]["devices"] == [GEFORCE.name, HOPPER.name]
    assert told["tensorrt-rtx"]["devices"] == [GEFORCE.name], "it has no kernels for the other"
    assert f"for {GEFORCE.name} (" in lines(capsys)["tensorrt-rtx"]


def test_what_is_there_is_told_with_its_version_and_no_line_to_install_it(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.versions |= {"tensorrt-cu12": "10.9.0", "onnxscript": "0.7", "tensorrt-rtx": "1.7"}
    told = lines(capsys)
    assert told["tensorrt"].startswith("10.9.0 for")
    assert "pip" not in told["tensorrt"]
    del machine.versions["onnxscript"]
    assert lines(capsys)["tensorrt"].endswith("pip install tensorrt onnxscript"), "torch could write no model for it"
    assert "onnxscript" in records(capsys)["tensorrt"]["missing"]
