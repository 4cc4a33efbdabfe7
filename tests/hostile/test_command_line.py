"""Odd streams, odd surroundings, signals: the pictures are done, and the exit code says what went wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from preloaded import Preloaded
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="closes descriptors, and wants /dev/full")

CLI = [sys.executable, "-m", "cudaspeed.cli"]
SECONDS = 300  # for what takes some: other tests may be at work
NOBODY = 54321  # a user who is in no list
NAMES = ["a.png", "b.png"]


@pytest.fixture(scope="module")
def cudaspeed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preloaded]:
    folder = tmp_path_factory.mktemp("cache")
    with Preloaded({"CUDASPEED_CACHE_DIR": str(folder), "CUDASPEED_MODELS": ""}) as server:
        yield server


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
    """Upscales the pictures into "out"."""
    return ["upscale", str(pictures), "-o", str(tmp_path / "out"), *quickly(model)]


def quickly(model: Path) -> list[str]:
    return ["--model", str(model), "--device", "cpu", "--precision", "fp32", "--no-compile"]


def process(command: list[str], **variables: str | None) -> subprocess.CompletedProcess[str]:
    """`command` in a process of its own; None takes a variable out."""
    around = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    environment = {name: text for name, text in around.items() if text is not None}
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, env=environment)


def done(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def assert_whole(folder: Path) -> None:
    assert done(folder) == NAMES
    for name in NAMES:
        with Image.open(folder / name) as image:
            image.load()
            assert image.size == (32, 24)


@pytest.mark.parametrize(
    ("places", "code", "said"),
    [
        ({"stderr": "closed"}, 0, ""),
        ({"stderr": "/dev/full"}, 0, ""),
        ({"stderr": "unread"}, 0, ""),
        ({"stdin": "closed"}, 0, ""),
        ({"stdout": "closed"}, 1, "standard output could not be written: it is closed"),
        ({"stdout": "/dev/full"}, 1, "standard output could not be written: No space left on device"),
        ({"stdout": "unread"}, 1, "standard output could not be written: Broken pipe"),
        ({"stdout": "/dev/full", "stderr": "/dev/full"}, 1, ""),
        ({"stdin": "closed", "stdout": "closed", "stderr": "closed"}, 1, ""),
    ],
)
def test_whatever_becomes_of_a_stream_all_pictures_are_done(
    cudaspeed: Preloaded, command: list[str], places: Mapping[str, str], code: int, said: str
) -> None:
    out = Path(command[3])
    for json_too in ([], ["--json"]):
        shutil.rmtree(out, ignore_errors=True)
        # A warning, which standard error is to take.
        (Path(command[1]) / "notes.txt").write_text("no picture")
        ended = cudaspeed.call([*command, *json_too], places=places)
        assert_whole(out)
        assert ended.code == code, ended.err
        assert b"Traceback" not in ended.out + ended.err
        assert said in ended.err.decode()
        if "stdout" not in places:
            told = 1 if json_too or "stderr" in places else 0  # that it was passed over
            assert len(ended.out.splitlines()) == 2 + told


def test_a_reader_who_leaves_does_not_end_the_batch(command: list[str], tmp_path: Path) -> None:
    """From a shell, as people do it; with pictures enough that the reader has left before the last."""
    for number in range(60):
        picture(Path(command[1]) / f"c{number:02}.png")
    ended = process(["bash", "-c", 'set -o pipefail; "$@" | head -1', "bash", *CLI, *command])
    assert len(done(tmp_path / "out")) == 62
    assert (ended.returncode, ended.stdout.count("\n")) == (1, 1)
    assert "a.png: 16x12 -> 32x24" in ended.stdout
    assert ended.stderr == "cudaspeed: error: standard output could not be written: Broken pipe\n"


def test_a_pipe_that_does_not_wait_gets_every_line(cudaspeed: Preloaded, command: list[str], tmp_path: Path) -> None:
    """As programs leave it that read several pipes at once; with a reader slower than the writer."""
    told = tmp_path / "told"
    before = f"""
import json, os, time
from cudaspeed.commands import batch
batch.sweep_leftovers = lambda folder: [
    logging.getLogger("cudaspeed").warning("x" * 5000) for _ in range(40)
]
import logging
read, write = os.pipe()
if not os.fork():
    os.close(write)
    with open({str(told)!r}, "wb") as file:
        while block := os.read(read, 4096):
            file.write(block)
            time.sleep(0.001)
    os.rename({str(told)!r}, {str(told) + ".whole"!r})
    os._exit(0)
os.set_blocking(write, False)
os.dup2(write, 2)
os.close(read), os.close(write)
"""
    ended = cudaspeed.call(command, before=before)
    assert (ended.code, ended.err) == (0, b"")
    end = time.monotonic() + SECONDS
    while not Path(f"{told}.whole").exists() and time.monotonic() < end:
        time.sleep(0.01)
    assert [len(line) for line in Path(f"{told}.whole").read_text().splitlines()] == [5000 + 20] * 40


@pytest.mark.parametrize("encoding", ["ascii", "ascii:surrogateescape", "latin-1", "utf-16"])
def test_a_name_that_the_stream_cannot_encode_is_escaped(
    cudaspeed: Preloaded, model: Path, tmp_path: Path, encoding: str
) -> None:
    names = ["gr\u00fcn.png", "\u732b.png", os.fsdecode(b"\xff\xfe.png")]
    inputs = [str(picture(tmp_path / name)) for name in names] + [str(tmp_path / "fehlt-\u00e4.png")]
    for json_too in ([], ["--json"]):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        arguments = ["upscale", *inputs, "-o", str(tmp_path / "out"), *quickly(model), *json_too]
        ended = cudaspeed.call(arguments, encoding=encoding)
        assert done(tmp_path / "out") == sorted(names)
        assert ended.code == 1, "one is missing"
        told = ended.out.decode(encoding.split(":")[0])
        assert len(told.splitlines()) == (4 if json_too else 3)
        assert ("\u732b.png" in told) == (encoding == "utf-16" and not json_too)
        assert ended.err.decode(encoding.split(":")[0]).count("fehlt-") == 1


def test_a_name_cannot_steer_the_terminal_nor_make_lines(cudaspeed: Preloaded, model: Path, tmp_path: Path) -> None:
    name = "a\x1b]0;owned\x07\nb.png: 1x1 -> 2x2\x9b31m.png"
    inputs = [str(picture(tmp_path / name)), str(tmp_path / "gone\x1b[2J\n.png")]
    ended = cudaspeed.call(["upscale", *inputs, "-o", str(tmp_path / "out"), *quickly(model)])
    assert done(tmp_path / "out") == [name]
    assert len(ended.out.splitlines()) == len(ended.err.splitlines()) == 1
    assert not set("\x1b\x07\x9b") & set((ended.out + ended.err).decode())


@pytest.mark.parametrize("place", ["closed", "/dev/full"])
def test_what_standard_error_cannot_take_is_said_on_standard_output(
    cudaspeed: Preloaded, command: list[str], place: str
) -> None:
    Path(command[1], "a.png").write_bytes(b"no picture")
    places = {"stderr": place}
    ended = cudaspeed.call(command, places=places)
    assert ended.code == 1
    assert b"a.png: is no picture" in ended.out
    records = [json.loads(line) for line in cudaspeed.call([*command, "--json"], places=places).out.splitlines()]
    assert ["error" in record for record in records] == [True, False]
    for json_too in ([], ["--json"]):
        ended = cudaspeed.call([*command, "--model", "nowhere", *json_too], places=places)
        assert ended.code == 2
        (line,) = ended.out.decode().splitlines()
        assert "nowhere" in (json.loads(line)["error"] if json_too else line)
        assert cudaspeed.call(["models", "--enlarge", *json_too], places=places).code == 2


@pytest.mark.parametrize(
    "arguments",
    [["--version"], ["--help"], ["upscale", "--help"], ["models", "--json"], ["cache", "list"], ["cache", "clear"]],
)
def test_every_command_tells_by_its_exit_code_that_it_could_not_be_heard(
    cudaspeed: Preloaded, arguments: list[str], tmp_path: Path
) -> None:
    variables = {"CUDASPEED_CACHE_DIR": str(tmp_path / "cache")}
    for place, reason in (("closed", "it is closed"), ("/dev/full", "No space left"), ("unread", "Broken pipe")):
        ended = cudaspeed.call(arguments, places={"stdout": place}, variables=variables)
        assert (ended.code, len(ended.err.splitlines())) == (1, 1), ended.err
        assert reason in ended.err.decode()
    ended = cudaspeed.call(arguments, places={"stdin": "closed", "stderr": "closed"}, variables=variables)
    assert ended.code == 0
    assert ended.out


def test_what_c_libraries_say_does_not_land_in_a_picture(cudaspeed: Preloaded, command: list[str]) -> None:
    """With a standard stream closed, the next file opened would get its number."""
    before = """
import os
from pathlib import Path
really = Path.open
def noisy(self, *arguments, **named):
    file = really(self, *arguments, **named)
    os.write(2, b"libpng warning: noise")
    os.write(1, b"noise")
    return file
Path.open = noisy
"""
    places = {"stdin": "closed", "stdout": "closed", "stderr": "closed"}
    assert cudaspeed.call(command, places=places, before=before).code == 1, "what was done could not be told"
    assert_whole(Path(command[3]))


def test_a_progress_bar_does_not_cost_a_picture_whose_terminal_goes(cudaspeed: Preloaded, command: list[str]) -> None:
    before = """
import os, pty, sys
master, slave = pty.openpty()
os.dup2(slave, 2), os.close(slave)
from cudaspeed.commands import reading
really = reading.read_image
def read_image(path, limits):
    if path.name == "b.png" and open_masters:  # a.png is read ahead, before there is a bar
        os.close(open_masters.pop())
    return really(path, limits)
open_masters = [master]
reading.read_image = read_image
"""
    ended = cudaspeed.call(command, before=before)
    assert ended.code == 0
    assert_whole(Path(command[3]))


# surroundings


@pytest.mark.parametrize(
    ("variables", "warned"),
    [
        ({"HOME": "/dev/null", "CUDASPEED_CACHE_DIR": None, "XDG_CACHE_HOME": None}, True),
        ({"HOME": "/dev/null/x", "CUDASPEED_CACHE_DIR": None, "XDG_CACHE_HOME": "cache"}, True),
        ({"CUDASPEED_CACHE_DIR": "/dev/null"}, True),
        ({"CUDASPEED_CACHE_DIR": "/proc/nowhere"}, True),
        ({"CUDASPEED_CACHE_DIR": f"/tmp/{'x' * 300}"}, True),
        ({"TMPDIR": "/nowhere", "TEMP": "/nowhere", "TMP": "/nowhere"}, False),
        ({"CUDA_HOME": "x" * 5000, "CPATH": "/proc/1/root"}, False),
        ({"PATH": "/nowhere", "CXX": "/nowhere"}, False),
    ],
)
def test_where_nothing_can_be_kept_the_pictures_are_done_and_it_is_said_what_to_set(
    cudaspeed: Preloaded, command: list[str], tmp_path: Path, variables: Mapping[str, str | None], warned: bool
) -> None:
    ended = cudaspeed.call(command, variables=variables, before="import tempfile; tempfile.tempdir = None")
    assert ended.code == 0, ended.err
    assert_whole(tmp_path / "out")
    lines = ended.err.decode().splitlines()
    assert bool(lines) == warned
    assert all("CUDASPEED_CACHE_DIR" in line for line in lines)


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root may become somebody else")
def test_a_user_without_name_and_home(command: list[str], tmp_path: Path) -> None:
    """As in many containers, whose user is a number."""
    tmp_path.chmod(0o1777)  # as /tmp is
    setpriv = shutil.which("setpriv")
    if not setpriv:
        pytest.skip("setpriv is needed to become a user who may still read this checkout")
    may_read = "+dac_override,+dac_read_search"
    become = [setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    become += [f"--inh-caps={may_read}", f"--ambient-caps={may_read}"]
    if subprocess.run([*become, "true"], capture_output=True).returncode:
        pytest.skip("this root may not hand these capabilities on")
    nameless = dict.fromkeys(("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME", "CUDASPEED_CACHE_DIR"))
    ended = process([*become, *CLI, *command], **nameless, TMPDIR=str(tmp_path))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert_whole(tmp_path / "out")
    assert (tmp_path / f"cudaspeed-{NOBODY}" / "compiled").is_dir()


def test_a_deleted_working_folder(model: Path, pictures: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    begin = ["bash", "-c", 'cd "$1" && rmdir "$1" && shift && exec "$@"', "bash", str(gone)]
    ended = process([*begin, *CLI, "upscale", str(pictures), "-o", str(tmp_path / "out"), *quickly(model)])
    assert (ended.returncode, ended.stderr) == (0, "")
    assert_whole(tmp_path / "out")


# signals

BEFORE_RENAMING = """
import os, signal
from pathlib import Path
really = Path.replace
def replace(self, target):
    if Path(target).name == "b.png":
        os.kill(os.getpid(), signal.{})
    return really(self, target)
Path.replace = replace
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_between_write_and_rename_leaves_nothing_unfinished(
    cudaspeed: Preloaded, command: list[str], tmp_path: Path, name: str
) -> None:
    ended = cudaspeed.call(command, before=BEFORE_RENAMING.format(name))
    assert (ended.code, ended.err) == (128 + getattr(signal, name), b"cudaspeed: stopped\n")
    assert done(tmp_path / "out") == ["a.png"]


def test_what_is_told_to_ignore_hangups_does(cudaspeed: Preloaded, command: list[str], tmp_path: Path) -> None:
    """As `nohup` has it."""
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    ended = cudaspeed.call(command, before=ignoring + BEFORE_RENAMING.format("SIGHUP"))
    assert (ended.code, ended.err) == (0, b"")
    assert_whole(tmp_path / "out")


def test_a_process_that_is_terminated_while_it_computes(command: list[str], tmp_path: Path) -> None:
    """From a shell, at any moment of a batch that would take minutes."""
    for number in range(200):
        picture(Path(command[1]) / f"{number:03}.png")
    running = subprocess.Popen([*CLI, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout
    assert "000.png" in running.stdout.readline()
    running.send_signal(signal.SIGTERM)
    out, err = running.communicate(timeout=SECONDS)
    assert (running.returncode, err) == (143, "cudaspeed: stopped\n")
    assert all(path.suffix == ".png" for path in (tmp_path / "out").iterdir())
    assert len(out.splitlines()) <= len(done(tmp_path / "out")) < 200


# files


def test_two_runs_at_once_into_one_folder(cudaspeed: Preloaded, command: list[str], tmp_path: Path) -> None:
    """The one that is waited for waits for the other."""
    before = "import os; pid = os.fork()\nif pid:\n    from cudaspeed.commands import request"
    before += "\n    really = request.run\n    request.run = lambda *a: really(*a) or os.waitpid(pid, 0)[1]"
    ended = cudaspeed.call(command, before=before)
    assert (ended.code, ended.err) == (0, b"")
    assert sorted(line.split(b":")[0] for line in ended.out.splitlines()) == [b"a.png", b"a.png", b"b.png", b"b.png"]
    assert_whole(tmp_path / "out")


def test_a_disk_that_is_full_costs_the_pictures_that_find_no_room(
    cudaspeed: Preloaded, command: list[str], tmp_path: Path
) -> None:
    """By a limit on how large a file may become, which fails as a full disk does: when the bytes are written."""
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(Path(command[1]) / "b.png")
    picture(Path(command[1]) / "c.png")
    before = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    ended = cudaspeed.call([*command, "--json"], before=before)
    records = [json.loads(line) for line in ended.out.splitlines()]
    assert ended.code == 1
    assert ["error" in record for record in records] == [False, True, False]
    assert "b.png: cannot be written" in records[1]["error"]
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
    cudaspeed: Preloaded, command: list[str], tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(Path(command[1]) / "odd.png")
    ended = cudaspeed.call(command)
    assert (ended.code, ended.err.decode()) == (0, f"cudaspeed: WARNING: {command[1]}: 1 passed over: odd.png\n")
    assert_whole(tmp_path / "out")
