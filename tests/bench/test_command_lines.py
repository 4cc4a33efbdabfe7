"""Every benchmark can be started, by the command that its own help names."""

from __future__ import annotations

import importlib
import sys

import pytest

from bench.harness import ROOT

NAMES = sorted(path.stem for path in (ROOT / "bench").glob("*.py") if "\ndef main()" in path.read_text("utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_s_help_says_how_it_is_started(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    module = importlib.import_module(f"bench.{name}")
    monkeypatch.setattr(sys, "argv", [str(module.__file__), "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert not ended.value.code
    assert f"`python -m bench.{name}" in capsys.readouterr().out
