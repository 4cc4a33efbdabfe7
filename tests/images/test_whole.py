"""A file appears complete or not at all; what kills leave is cleared away."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from cudaspeed.api.errors import OutputError
from cudaspeed.images.whole import sweep_leftovers, write_whole


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine.png").write_bytes(b"mine")
    (tmp_path / "out.png").symlink_to("mine.png")
    write_whole(tmp_path / "out.png", lambda file: file.write(b"new"))
    assert not (tmp_path / "out.png").is_symlink()
    assert (tmp_path / "out.png").read_bytes() == b"new"
    assert (tmp_path / "mine.png").read_bytes() == b"mine"


@pytest.mark.parametrize("when", ["write", "replace"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device"), MemoryError])
def test_whatever_happens_on_the_way_nothing_unfinished_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, error: BaseException
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    (tmp_path / "out.png").write_bytes(b"old")
    if when == "replace":
        monkeypatch.setattr(Path, "replace", fail)
    else:
        really = Path.open

        def opened(self: Path, mode: str) -> object:
            really(self, mode).close()
            raise error

        monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(OutputError if isinstance(error, OSError) else error):  # type: ignore[arg-type]
        write_whole(tmp_path / "out.png", lambda file: file.write(b"new"))
    monkeypatch.undo()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("out.png", b"old")]


def leftover(folder: Path, name: str, hours: float) -> str:
    (folder / name).write_bytes(b"half")
    when = time.time() - 3600 * hours
    os.utime(folder / name, (when, when))
    return name


def test_what_killed_runs_left_long_ago_goes_and_nothing_else(tmp_path: Path) -> None:
    leftover(tmp_path, f".cudaspeed-{'0a' * 16}.tmp", 30)
    stay = [
        leftover(tmp_path, f".cudaspeed-{'0b' * 16}.tmp", 20),  # it may be being written
        leftover(tmp_path, f".{'0c' * 16}.tmp", 200),  # perhaps another program's
        leftover(tmp_path, f".cudaspeed-{'0d' * 16}.tmp.png", 200),
        leftover(tmp_path, f".cudaspeed-{'0e' * 15}.tmp", 200),
        leftover(tmp_path, "photo.png", 200),
    ]
    (tmp_path / f".cudaspeed-{'0f' * 16}.tmp").mkdir()
    sweep_leftovers(tmp_path)
    sweep_leftovers(tmp_path / "absent")
    sweep_leftovers(tmp_path / "photo.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*stay, f".cudaspeed-{'0f' * 16}.tmp"])


@pytest.mark.skipif(sys.platform == "win32", reason="nobody owns a file there as here")
def test_what_others_left_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = leftover(tmp_path, f".cudaspeed-{'0a' * 16}.tmp", 30)
    (tmp_path / f".cudaspeed-{'0b' * 16}.tmp").symlink_to(name)
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    sweep_leftovers(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_written_can_be_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name under which it is written is one that is recognised."""
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
    monkeypatch.setattr(Path, "replace", lambda self, target: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(OutputError):
        write_whole(tmp_path / "out.png", lambda file: file.write(b"half"))
    monkeypatch.undo()
    (left,) = tmp_path.iterdir()
    leftover(tmp_path, left.name, 30)
    sweep_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())
