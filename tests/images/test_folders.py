"""What is taken for a picture in a folder, and what is passed over."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from cudaspeed.images.folders import look_into

PNG = b"\x89PNG\r\n\x1a\n and more"


def taken(folder: Path, recursive: bool = False, output: Path = Path("absent")) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in look_into(folder, recursive, output).pictures]


def test_the_content_decides_and_a_pictures_ending_has_its_content_looked_at_later(tmp_path: Path) -> None:
    for name in ("photo", "wrong.txt", "a.jfif", "v1.2"):
        (tmp_path / name).write_bytes(PNG)
    for name in ("empty.png", "damaged.JPG", "notes.md", ".hidden.png", "empty"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "sub.png").mkdir()
    found = look_into(tmp_path, False, Path("absent"))
    assert [path.name for path in found.pictures] == [
        "a.jfif",
        "damaged.JPG",
        "empty.png",
        "photo",
        "v1.2",
        "wrong.txt",
    ]
    assert found.passed_over == ("empty", "notes.md", "photo.heic", f"sub.png{os.sep}")
    assert found.failures == ()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes among its files")
def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(PNG)
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe")
    for name, place in (
        ("device.png", "/dev/zero"),
        ("gone.png", "nowhere"),
        ("self.png", "self.png"),
        ("link", "good.png"),
    ):
        (tmp_path / name).symlink_to(place)
    found = look_into(tmp_path, False, Path("absent"))
    assert [path.name for path in found.pictures] == ["good.png", "link"]
    assert found.passed_over == ("device.png", "gone.png", "pipe", "pipe.png", "self.png")


@pytest.mark.skipif(sys.platform == "win32", reason="links want a privilege there")
def test_links_to_folders_are_not_followed_so_that_there_is_an_end(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "deep.png").write_bytes(PNG)
    (tmp_path / "a" / "loop").symlink_to("..")
    (tmp_path / "a" / "b" / "top").symlink_to(tmp_path)
    found = look_into(tmp_path, True, Path("absent"))
    assert [path.name for path in found.pictures] == ["deep.png"]
    assert sorted(found.passed_over) == [f"a/b/top{os.sep}", f"a/loop{os.sep}"]


def test_hidden_folders_and_the_output_are_not_looked_into(tmp_path: Path) -> None:
    for folder in ("out", ".git", "in", "in/.thumbs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "p.png").write_bytes(PNG)
    assert taken(tmp_path, True, tmp_path / "in" / ".." / "out") == ["in/p.png"]
    assert taken(tmp_path, True) == ["in/p.png", "out/p.png"]


def test_a_subfolder_that_cannot_be_looked_into_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root may look into everything, the refusal is made up."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "p.png").write_bytes(PNG)
    really = Path.iterdir

    def iterdir(self: Path) -> object:
        if self.name == "a":
            raise PermissionError(13, "Permission denied")
        return really(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    found = look_into(tmp_path, True, Path("absent"))
    assert [path.relative_to(tmp_path).as_posix() for path in found.pictures] == ["b/p.png"]
    assert found.failures == ((tmp_path / "a", f"cannot look into the folder {tmp_path / 'a'}: Permission denied"),)


def test_thousands_of_levels_end_in_one_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than any path may be, made step by step."""
    monkeypatch.chdir(tmp_path)
    for _ in range(30):
        os.mkdir("d" * 200)  # noqa: PTH102
        os.chdir("d" * 200)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.png").write_bytes(PNG)
    found = look_into(tmp_path, True, Path("absent"))
    assert [path.name for path in found.pictures] == ["p.png"]
    assert len(found.failures) + len(found.passed_over) == 1
