"""The cache attacked: by compilers whose code crashes, hangs or ends its process, by compilers that hang, and by names
under which others put their own. In each case the picture is there, soon and right, and the process with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

if sys.platform != "linux" or not shutil.which("g++"):
    pytest.skip("no kernels are built here", allow_module_level=True)

from attacked import Outcome, upscaled
from bad_compilers import SOURCES, compiler_of_bad_code, real, script

from cudaspeed.storage.artifacts import ArtifactStore
from cudaspeed.storage.index import Entry

PATIENCE = 1.0  # so that a test need not wait for more
LONG = 30.0  # on a machine that does other things; what hangs would take longer
MEMORY = 300 << 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def all_is_well(outcome: Outcome, kernels: str = "plain") -> None:
    assert outcome.code == 0
    assert outcome.kernels == kernels
    assert outcome.error < 1e-4
    assert outcome.seconds < LONG
    assert outcome.bytes < MEMORY


def entry_of(folder: Path) -> Entry:
    """Once it is no longer being built."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        (entry,) = ArtifactStore(folder).entries().values()
        if entry.state != "compiling":
            return entry
        time.sleep(0.1)
    raise AssertionError("it is being built for ever")


def alive(pids: Path) -> list[int]:
    numbers = [int(line) for line in pids.read_text().split()]
    return [n for n in numbers if psutil.pid_exists(n) and psutil.Process(n).status() != psutil.STATUS_ZOMBIE]


def calls(folder: Path) -> int:
    return len((folder / "calls").read_text().splitlines())


def test_a_good_compiler_gives_kernels_at_the_first_picture(folder: Path, tmp_path: Path) -> None:
    outcome = upscaled(folder, CXX=script(tmp_path, ""), patience=60.0)
    all_is_well(outcome, outcome.kernels)
    assert not [text for text in outcome.logged if "no winograd kernels" in text]
    assert entry_of(folder).state == "ready"
    assert calls(tmp_path) == 2
    all_is_well(upscaled(folder, CXX=tmp_path / "g++"), outcome.kernels)
    assert calls(tmp_path) == 2, "later starts cost nothing"


@pytest.mark.parametrize("at", ["load", "first call", "end"])
@pytest.mark.parametrize("what", SOURCES)
def test_code_that_kills_its_process_or_hangs_never_gets_into_ours(
    what: str, at: str, folder: Path, tmp_path: Path
) -> None:
    compiler = compiler_of_bad_code(tmp_path, SOURCES[what], at)
    settings = {"CXX": compiler, "patience": PATIENCE if what == "never returns" else LONG, "_TRYING": 3.0}
    if (what, at) == ("exits", "end"):
        settings["patience"] = LONG  # exit in a destructor is no harm, or a hang, as the C library has it
    all_is_well(upscaled(folder, **settings))
    entry = entry_of(folder)
    assert entry.state == "failed"
    assert entry.reason
    assert not list(folder.glob("*.pt2"))
    before = calls(tmp_path)
    outcome = upscaled(folder, **settings)
    all_is_well(outcome)
    assert outcome.seconds < PATIENCE + LONG / 2
    assert calls(tmp_path) == before, "it is known"
    assert any(entry.reason in text for text in outcome.logged), "and told"


@pytest.mark.parametrize(
    "text",
    [
        "exec sleep 600",
        "sleep 600 &\necho $! >> $(dirname $0)/calls\nexec sleep 600",
        "setsid sh -c 'echo $$ >> '$(dirname $0)'/calls; exec sleep 600' &\nexec sleep 600",
        "setsid sh -c 'echo $$ >> '$(dirname $0)'/calls; exec sleep 600' &\nsleep 0.3\nexit 1",
        "trap '' TERM INT HUP\nwhile :; do sleep 1; done",
        "while :; do echo error; done",
    ],
    ids=["sleeps", "has children", "has children that leave", "leaves children", "hears no signal", "talks"],
)
def test_a_compiler_that_hangs_is_not_waited_for_and_ends_with_all_that_it_started(
    text: str, folder: Path, tmp_path: Path
) -> None:
    settings = {"CXX": script(tmp_path, text), "patience": PATIENCE, "_BUILDING": 4.0}
    first = upscaled(folder, **settings)
    all_is_well(first)
    second = upscaled(folder, **settings)
    all_is_well(second)
    assert second.seconds < PATIENCE + 10
    entry = entry_of(folder)
    assert entry.state == "failed"
    until = time.monotonic() + 10
    while (alive(tmp_path / "calls") or any((folder / "jobs").iterdir())) and time.monotonic() < until:
        time.sleep(0.1)
    assert not alive(tmp_path / "calls")
    assert not list((folder / "jobs").iterdir())
    before = (tmp_path / "calls").read_text()
    third = upscaled(folder, **settings)
    all_is_well(third)
    assert (tmp_path / "calls").read_text() == before, "for this compiler and source not again today"


@pytest.mark.parametrize("text", ["exit 0", ": > $last; exit 0", "head -c 100000 /dev/zero > $last; exit 0"])
def test_a_compiler_that_makes_nothing_of_use(text: str, folder: Path, tmp_path: Path) -> None:
    settings = {"CXX": script(tmp_path, text), "patience": LONG}
    all_is_well(upscaled(folder, **settings))
    assert entry_of(folder).state == "failed"


def test_a_compiler_that_writes_without_end_fills_no_disk(folder: Path, tmp_path: Path) -> None:
    settings = {"CXX": script(tmp_path, "exec cat /dev/zero > $last"), "patience": LONG}
    all_is_well(upscaled(folder, **settings))
    assert entry_of(folder).state == "failed"


def test_a_killed_builder_is_no_word_against_the_compiler(folder: Path, tmp_path: Path) -> None:
    settings = {"CXX": script(tmp_path, "sleep 2"), "patience": 0.5}
    all_is_well(upscaled(folder, **settings))
    (entry,) = ArtifactStore(folder).entries().values()
    psutil.Process(entry.owner_pid).kill()
    assert entry_of(folder).state == "seen"
    assert upscaled(folder, **(settings | {"patience": 60.0})).code == 0
    assert entry_of(folder).state == "ready"
    assert not list((folder / "jobs").iterdir()), "what the killed one left is gone"


# --- folders that others can reach -----------------------------------------------------------------------------------


def marked_library(folder: Path) -> Path:
    """One that leaves a mark where it is loaded."""
    (folder / "evil.cpp").write_text(
        f'#include <cstdio>\n__attribute__((constructor)) static void now() {{ std::fopen("{folder}/ran", "w"); }}\n'
    )
    subprocess.run([real(), "-shared", "-fPIC", folder / "evil.cpp", "-o", folder / "evil.so"], check=True)
    return folder / "evil.so"


def test_where_others_could_put_their_own_nothing_is_loaded_or_written(folder: Path, tmp_path: Path) -> None:
    evil, own = marked_library(tmp_path), folder / "a" / "b"
    upscaled(own, patience=60.0)
    (file,) = own.glob("*.pt2")
    (folder / "a").chmod(0o777)
    shutil.copy(evil, file)
    outcome = upscaled(own, patience=60.0)
    all_is_well(outcome)
    assert not (tmp_path / "ran").exists()
    (told,) = [text for text in outcome.logged if "CUDASPEED_CACHE_DIR" in text and "not used" in text]
    assert f"chmod go-w {folder / 'a'}" in told


def test_a_swap_between_check_and_load_gets_nothing_loaded(folder: Path, tmp_path: Path) -> None:
    evil = marked_library(tmp_path)
    outcome = upscaled(folder, swapped_for=evil, patience=60.0)
    all_is_well(outcome, outcome.kernels)
    assert [file.read_bytes() for file in folder.glob("*.pt2")] == [evil.read_bytes()], "it was swapped"
    assert not (tmp_path / "ran").exists()


def test_swaps_all_the_time_get_nothing_loaded(folder: Path, tmp_path: Path) -> None:
    marked_library(tmp_path)
    upscaled(folder, patience=60.0)
    (file,) = folder.glob("*.pt2")
    (tmp_path / "good.so").write_bytes(file.read_bytes())
    swapping = f"""
import os, shutil
from itertools import cycle
for source in cycle(["{tmp_path}/evil.so", "{tmp_path}/good.so"]):
    shutil.copyfile(source, "{tmp_path}/new"); os.chmod("{tmp_path}/new", 0o600)
    os.replace("{tmp_path}/new", "{file}")
    shutil.copyfile("{tmp_path}/evil.so", "{file}")
"""
    swapper = subprocess.Popen([sys.executable, "-c", swapping])
    try:
        for _ in range(10):
            assert upscaled(folder, patience=0.0).code == 0
    finally:
        swapper.kill()
        swapper.wait()
    assert not (tmp_path / "ran").exists()


def test_another_users_folder_is_not_used(folder: Path, tmp_path: Path) -> None:
    if os.getuid():
        pytest.skip("only root can give a folder away")
    folder.mkdir()
    (folder / "theirs").mkdir(mode=0o755)
    os.chown(folder / "theirs", 12345, 12345)
    outcome = upscaled(folder / "theirs" / "cache", patience=60.0)
    all_is_well(outcome)
    assert not (folder / "theirs" / "cache").exists()
    told = "\n".join(outcome.logged)
    assert "set CUDASPEED_CACHE_DIR to a folder of your own" in told
    assert "chmod" not in told, "it is not ours to change"
