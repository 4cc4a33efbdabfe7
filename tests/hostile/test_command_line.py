"""Odd streams, odd surroundings, signals: the pictures are done, and the exit code says what went wrong.

Each in a process of its own, as a shell would start it.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX descriptors")

CLI = [sys.executable, "-m", "cudaspeed.cli"]
SECONDS = 120
# With what keeps root from reading everything taken away: as a user who is in no list, but may read this checkout.
NOBODY = 54321
NAMES = ("a.png", "b.png", "c.png")


def bounded() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_file(Compact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=2).state_dict(), path)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in NAMES:
        picture(folder / name)
    return folder


def picture(path: Path, size: tuple[int, int] = (16, 12)) -> Path:
    rows = np.linspace(0, 255, size[1], dtype=np.uint8)[:, None, None]
    Image.fromarray(np.broadcast_to(rows, (size[1], size[0], 3)).copy()).save(path)
    return path


@pytest.fixture
def command(tmp_path: Path, model: Path, pictures: Path) -> list[str]:
    """Upscales the three pictures into "out"."""
    return [*CLI, "upscale", str(pictures), "-o", str(tmp_path / "out"), *quickly(model)]


def quickly(model: Path) -> list[str]:
    return ["--model", str(model), "--device", "cpu", "--no-compile"]


def surroundings(**changes: str | None) -> dict[str, str]:
    told = {**os.environ, "OMP_NUM_THREADS": "1", **{name: text for name, text in changes.items() if text is not None}}
    return {name: text for name, text in told.items() if changes.get(name, "") is not None}


def call(command: list[str], shell: str = "", **more: Any) -> subprocess.CompletedProcess[str]:
    """Run `command`, with what `shell` adds to it, and wait."""
    return subprocess.run(
        ["bash", "-c", f'set -o pipefail; "$@" {shell}', "bash", *command],
        capture_output=True, text=True, errors="replace", timeout=SECONDS, preexec_fn=bounded, check=False,
        **{"env": surroundings(), **more},
    )  # fmt: skip


def done(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def assert_whole(folder: Path) -> None:
    assert done(folder) == [*NAMES]
    for name in NAMES:
        with Image.open(folder / name) as image:
            image.load()
            assert image.size == (32, 24)


@pytest.mark.parametrize("json_too", [[], ["--json"]])
@pytest.mark.parametrize(
    ("shell", "code", "said", "on"),
    [
        ("2>&-", 0, "", "stderr"),
        ("2>/dev/full", 0, "", "stderr"),
        ("<&-", 0, "", "stderr"),
        ("<&- 2>&-", 0, "", "stderr"),
        (">&-", 1, "standard output could not be written: it is closed", "stderr"),
        (">/dev/full", 1, "standard output could not be written: No space left on device", "stderr"),
        (">&- 2>&-", 1, "", "stderr"),
        (">/dev/full 2>/dev/full", 1, "", "stderr"),
        ("<&- >&- 2>&-", 1, "", "stderr"),
        ("> >(true)", 1, "standard output could not be written: Broken pipe", "stderr"),
        ("> >(exec <&-; sleep 0.1)", 1, "standard output could not be written: Broken pipe", "stderr"),
    ],
)
def test_whatever_becomes_of_a_stream_all_pictures_are_done(
    command: list[str], tmp_path: Path, json_too: list[str], shell: str, code: int, said: str, on: str
) -> None:
    result = call([*command, *json_too], shell)
    assert_whole(tmp_path / "out")
    assert result.returncode == code, result.stderr
    assert result.stderr.count("\n") == (1 if said else 0)
    assert said in result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    if code == 0:
        assert len(result.stdout.splitlines()) == 3


def test_a_reader_who_leaves_does_not_end_the_batch(command: list[str], tmp_path: Path) -> None:
    result = call(command, "| head -1")
    assert_whole(tmp_path / "out")
    assert result.returncode == 1
    assert "a.png: 16x12 -> 32x24" in result.stdout
    assert "Broken pipe" in result.stderr


def test_a_pipe_that_is_not_waited_for_by_itself_gets_every_line(model: Path, tmp_path: Path) -> None:
    """As programs leave it that read several pipes at once; a reader slower than the writer."""
    for number in range(40):
        picture(tmp_path / f"{number:02}{'x' * 150}.png", (4, 4))
    inputs = [str(path) for path in sorted(tmp_path.glob("*.png"))]
    read, write = os.pipe()
    os.set_blocking(write, False)
    arguments = [*CLI, "upscale", *inputs, "-o", str(tmp_path / "out"), *quickly(model), "--json"]
    process = subprocess.Popen(arguments, stdout=write, stderr=subprocess.PIPE, text=True, env=surroundings())
    os.close(write)
    time.sleep(1)
    with os.fdopen(read) as pipe:
        lines = []
        while line := pipe.readline():
            lines.append(json.loads(line))
            time.sleep(0.005)
    assert process.communicate(timeout=SECONDS)[1] == ""
    assert process.returncode == 0
    assert [record["input"] for record in lines] == inputs


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "ascii:strict"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"PYTHONIOENCODING": "utf-16"},
        {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "ascii"},
    ],
)
def test_a_name_that_the_stream_cannot_encode_is_escaped(
    model: Path, tmp_path: Path, variables: Mapping[str, str]
) -> None:
    names = ["gr\u00fcn.png", "\u732b.png", "plain.png", os.fsdecode(b"\xff\xfe.png")]
    for name in names:
        picture(tmp_path / name)
    inputs = [str(tmp_path / name) for name in names] + [str(tmp_path / "fehlt-\u00e4.png")]
    command = [*CLI, "upscale", *inputs, "-o", str(tmp_path / "out"), *quickly(model)]
    for json_too in ([], ["--json"]):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        result = subprocess.run(
            [*command, *json_too], capture_output=True, env=surroundings(**variables), timeout=SECONDS
        )
        assert len(list((tmp_path / "out").iterdir())) == 4
        assert result.returncode == 1, "one is missing"
        told = result.stdout.decode(variables.get("PYTHONIOENCODING", "ascii").split(":")[0])
        assert len(told.splitlines()) == (5 if json_too else 4)
        assert b"Traceback" not in result.stderr
        assert ("\u732b" in told) == (variables.get("PYTHONIOENCODING") == "utf-16" and not json_too)


def test_a_name_cannot_steer_the_terminal_nor_make_lines(model: Path, tmp_path: Path) -> None:
    name = "a\x1b]0;owned\x07\nb.png: 1x1 -> 2x2\x9b31m.png"
    picture(tmp_path / name)
    inputs = [str(tmp_path / name), str(tmp_path / "gone\x1b[2J\n.png")]
    result = call([*CLI, "upscale", *inputs, "-o", str(tmp_path / "out"), *quickly(model)])
    assert done(tmp_path / "out") == [name]
    assert len(result.stdout.splitlines()) == len(result.stderr.splitlines()) == 1
    assert not set("\x1b\x07\x9b") & set(result.stdout + result.stderr)


def test_what_standard_error_cannot_take_is_said_on_standard_output(command: list[str], pictures: Path) -> None:
    (pictures / "b.png").write_bytes(b"no picture")
    for shell in ("2>&-", "2>/dev/full"):
        result = call(command, shell)
        assert result.returncode == 1
        assert "b.png: is not a" in result.stdout
        records = [json.loads(line) for line in call([*command, "--json"], shell).stdout.splitlines()]
        assert ["error" in record for record in records] == [False, True, False]
        assert "nowhere" in call([*command[:-1], "--model", "nowhere"], shell).stdout
        only = json.loads(call([*command, "--json", "--model", "nowhere"], shell).stdout)
        assert "nowhere" in only["error"]
        assert call([*CLI, "enlarge"], shell).returncode == 2


@pytest.mark.parametrize(
    "arguments",
    [["--version"], ["--help"], ["upscale", "--help"], ["models"], ["models", "--json"], ["cache", "list"], ["cache", "clear"]],
)  # fmt: skip
def test_every_command_tells_by_its_exit_code_that_it_could_not_be_heard(arguments: list[str], tmp_path: Path) -> None:
    around = surroundings(CUDASPEED_CACHE_DIR=str(tmp_path / "cache"))
    for shell, reason in ((">&-", "it is closed"), (">/dev/full", "No space left"), ("> >(true)", "Broken pipe")):
        result = call([*CLI, *arguments], shell, env=around)
        assert (result.returncode, result.stderr.count("\n")) == (1, 1), result.stderr
        assert reason in result.stderr
    assert call([*CLI, *arguments], "2>&- <&-", env=around).returncode == 0


def test_what_c_libraries_say_does_not_land_in_a_picture(model: Path, pictures: Path, tmp_path: Path) -> None:
    """With standard error closed, the next file opened would get its number."""
    code = (
        "import os, sys; from cudaspeed import cli; from cudaspeed.images import whole\n"
        "really = os.open\n"
        "from pathlib import Path; opened = Path.open\n"
        "def noisy(self, *a, **k):\n"
        "    file = opened(self, *a, **k)\n"
        "    os.write(2, b'libpng warning: noise')\n"
        "    os.write(1, b'noise')\n"
        "    return file\n"
        "Path.open = noisy\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    arguments = ["upscale", str(pictures), "-o", str(tmp_path / "out"), *quickly(model)]
    result = call([sys.executable, "-c", code, *arguments], "<&- >&- 2>&-")
    assert result.returncode == 1, "what was done could not be told"
    assert_whole(tmp_path / "out")


# surroundings


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"HOME": "/dev/null", "CUDASPEED_CACHE_DIR": None, "XDG_CACHE_HOME": None}, "CUDASPEED_CACHE_DIR"),
        ({"HOME": "/dev/null/x", "CUDASPEED_CACHE_DIR": None, "XDG_CACHE_HOME": "cache"}, "CUDASPEED_CACHE_DIR"),
        ({"CUDASPEED_CACHE_DIR": "/dev/null"}, "CUDASPEED_CACHE_DIR"),
        ({"CUDASPEED_CACHE_DIR": "/proc/nowhere"}, "CUDASPEED_CACHE_DIR"),
        ({"CUDASPEED_CACHE_DIR": f"/tmp/{'x' * 300}"}, "CUDASPEED_CACHE_DIR"),
        ({"TMPDIR": "/nowhere", "TEMP": "/nowhere", "TMP": "/nowhere"}, ""),
        ({"CUDA_HOME": "x" * 5000, "CPATH": "/proc/1/root"}, ""),
        ({"PATH": "/nowhere", "CXX": "/nowhere"}, ""),
    ],
)
def test_where_nothing_can_be_kept_the_pictures_are_done_and_it_is_said_what_to_set(
    command: list[str], tmp_path: Path, variables: Mapping[str, str | None], told: str
) -> None:
    shell = shutil.which("bash")
    assert shell
    result = subprocess.run(
        [*command, "--compile", "--compile-mode", "wait"] if not told else command,
        capture_output=True, text=True, timeout=SECONDS,
        env=surroundings(**{"CUDASPEED_CACHE_DIR": str(tmp_path / "cache"), **variables}),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert_whole(tmp_path / "out")
    if told:
        assert result.stderr.count(told) == 1
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root may become somebody else")
def test_a_user_without_name_and_home(command: list[str], tmp_path: Path) -> None:
    """As in many containers, whose user is a number."""
    tmp_path.chmod(0o777)
    setpriv = shutil.which("setpriv")
    if not setpriv:
        pytest.skip("setpriv is needed to become a user who may still read this checkout")
    may_read = "+dac_override,+dac_read_search"
    become = [setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    become += [f"--inh-caps={may_read}", f"--ambient-caps={may_read}"]
    if subprocess.run([*become, "true"], capture_output=True).returncode:
        pytest.skip("this root may not hand these capabilities on")
    nameless = dict.fromkeys(("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME", "CUDASPEED_CACHE_DIR"))
    around = surroundings(**nameless, TMPDIR=str(tmp_path))
    result = call([*become, *command], env=around)
    assert (result.returncode, result.stderr) == (0, "")
    assert_whole(tmp_path / "out")
    assert (tmp_path / f"cudaspeed-{NOBODY}" / "compiled").is_dir()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets the working folder be deleted")
def test_a_deleted_working_folder(model: Path, pictures: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    begin = ["bash", "-c", 'cd "$1" && rmdir "$1" && shift && exec "$@"', "bash", str(gone)]
    arguments = [*CLI, "upscale", str(pictures), "-o", str(tmp_path / "out"), *quickly(model)]
    result = subprocess.run([*begin, *arguments], capture_output=True, text=True, env=surroundings(), timeout=SECONDS)
    assert (result.returncode, result.stderr) == (0, "")
    assert_whole(tmp_path / "out")
    gone.mkdir()
    arguments = [*CLI, "upscale", "in", "-o", "out", *quickly(model)]
    result = subprocess.run([*begin, *arguments], capture_output=True, text=True, env=surroundings(), timeout=SECONDS)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1


# signals

SLOW = """
import sys, time
from cudaspeed import cli
from cudaspeed.images import files, whole
from pathlib import Path
really = Path.replace
def replace(self, target):
    if Path(target).name == "b.png":
        print("writing", flush=True)
        time.sleep(60)
    return really(self, target)
Path.replace = replace
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_between_write_and_rename_leaves_nothing_unfinished(
    command: list[str], tmp_path: Path, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *command[len(CLI) :]],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=surroundings(),
    )  # fmt: skip
    assert process.stdout
    while "writing" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(number)
    _, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, err) == (128 + number, "cudaspeed: stopped\n")
    assert done(tmp_path / "out") == ["a.png"]


def test_what_is_told_to_ignore_hangups_does(command: list[str], tmp_path: Path) -> None:
    ignoring = ["bash", "-c", 'trap "" HUP; exec "$@"', "bash"]
    quick = SLOW.replace("time.sleep(60)", "import os, signal; os.kill(os.getpid(), signal.SIGHUP)")
    result = call([*ignoring, sys.executable, "-c", quick, *command[len(CLI) :]])
    assert (result.returncode, result.stderr) == (0, "")
    assert_whole(tmp_path / "out")


def test_two_runs_at_once_into_one_folder(command: list[str], tmp_path: Path) -> None:
    runs = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=surroundings()) for _ in "ab"
    ]
    assert [(run.communicate(timeout=SECONDS)[1], run.returncode) for run in runs] == [(b"", 0)] * 2
    assert_whole(tmp_path / "out")


# files


def test_a_disk_that_is_full_costs_the_pictures_that_find_no_room(command: list[str], tmp_path: Path) -> None:
    """By a limit on how large a file may become, which fails as a full disk does: when the bytes are written."""
    picture(tmp_path / "in" / "b.png", (600, 600))
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "in" / "b.png")

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    result = subprocess.run(
        [*command, "--json"], capture_output=True, text=True, env=surroundings(), timeout=SECONDS, preexec_fn=limited
    )
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.returncode == 1
    assert ["error" in record for record in records] == [False, True, False]
    assert "cannot be written" in records[1]["error"]
    assert done(tmp_path / "out") == ["a.png", "c.png"]


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_link_to_nowhere(path: Path) -> None:
    path.symlink_to("nowhere")


def make_link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def make_link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [make_pipe, make_link_to_nowhere, make_link_to_itself, make_link_to_a_device])
def test_what_is_no_file_is_passed_over_in_a_folder_and_named(
    command: list[str], pictures: Path, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(pictures / "odd.png")
    result = call(command)
    assert (result.returncode, result.stderr) == (0, f"cudaspeed: WARNING: {pictures}: 1 passed over: odd.png\n")
    assert_whole(tmp_path / "out")
