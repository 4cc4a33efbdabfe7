"""PyAV is asked for where films are opened, and in a version that reads them well."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from cudaspeed.api.errors import MissingLibraryError
from cudaspeed.video.pyav import load_av


@pytest.mark.parametrize("version", ["16.1.0", "9.2.0", "17.0.1", "unknown"])
def test_an_older_version_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setitem(sys.modules, "av", SimpleNamespace(__version__=version))
    with pytest.raises(MissingLibraryError, match=f"{version}.*av>=17.1"):
        load_av()


@pytest.mark.parametrize("version", ["17.1.0", "18.0.1", "100.0.0rc1"])
def test_newer_ones_are_taken(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    module = SimpleNamespace(__version__=version)
    monkeypatch.setitem(sys.modules, "av", module)
    assert load_av() is module


def test_where_it_is_missing_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingLibraryError, match=r"PyAV.*pip install"):
        load_av()


def test_importing_the_reader_does_not_import_it() -> None:
    code = "import sys, cudaspeed.video.reader; print('av' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
