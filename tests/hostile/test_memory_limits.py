"""Little memory, and a system that ends who takes more: the picture is made within the limit, or there is one error."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import zoo
from clocks import new_sessions

from cudaspeed import memory
from cudaspeed.api.errors import OutOfMemoryError
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.pipeline import output
from cudaspeed.upscale_engine import upscale

MIB = 2**20
FP32 = UpscaleOptions(precision="fp32", compile=False)

# What the process holds when all is loaded is not the run's; `room` MiB more are allowed. Beyond, it is ended at once,
# as by the kernel: by a thread that looks every few milliseconds and keeps the group's files up to date.
CHILD = """
import os, re, signal, sys, threading, time
from pathlib import Path

import torch

from cudaspeed import CudaspeedError, StandaloneContext, UpscaleOptions, load_model, memory, upscale
from cudaspeed.storage.memory_limits import memory_bytes_left

kind, room, (height, width, channels), root = sys.argv[1], int(sys.argv[2]) << 20, eval(sys.argv[3]), Path(sys.argv[4])

def taken(*names):
    status = Path("/proc/self/status").read_text()
    return sum(1024 * int(re.search(rf"^{name}:\\s*(\\d+)", status, re.M)[1]) for name in names)

model, image = load_model("cudaspeed-compact-x2"), torch.rand(1, height, width, channels).mul_(0.5)
image[..., ::40, -1] = 0
upscale(image[:, :32, :32, :3], model, context=StandaloneContext("cpu"))
if kind == "address space":
    import resource
    limit = taken("VmSize") + room
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
else:
    group = root / "sys/fs/cgroup/memory/job/step"
    group.mkdir(parents=True)
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("4:memory:/job/step\\n0::/\\n")
    limit = taken("RssAnon") + room
    (group.parent / "memory.limit_in_bytes").write_text(str(limit))

    lock = threading.Lock()

    def look():
        with lock:
            note()

    def note():
        held = taken("RssAnon")
        if held > limit:
            os.kill(os.getpid(), signal.SIGKILL)
        (group.parent / "memory.next").write_text(str(held))
        (group.parent / "memory.next").rename(group.parent / "memory.usage_in_bytes")

    def watch():
        while True:
            look()
            time.sleep(0.003)

    look()
    threading.Thread(target=watch, daemon=True).start()
    memory.memory_bytes_left = lambda: look() or memory_bytes_left(root)
try:
    result = upscale(image, model, UpscaleOptions(compile=False), StandaloneContext("cpu"))
except CudaspeedError as error:
    print(type(error).__name__, error)
else:
    low, high = torch.aminmax(result.image)  # takes no memory itself
    assert 0 <= low < high <= 1
    print("done", result.report.tiles)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such limits")
@pytest.mark.parametrize(
    ("room", "size", "said"),
    [
        (70, (600, 800, 3), "done"),
        (20, (600, 800, 3), "OutOfMemoryError the result, 1 frame(s) of 1600x1200, takes 0.02 GiB"),
        (80, (600, 800, 4), "OutOfMemoryError the result, 1 frame(s) of 1600x1200, takes 0.03 GiB"),
        (75, (300, 400, 4), "done"),
    ],
)
@pytest.mark.parametrize("kind", ["control group", "address space"])
def test_nothing_is_taken_beyond_a_limit(kind: str, room: int, size: tuple[int, int, int], said: str, tmp_path) -> None:
    command = [sys.executable, "-c", CHILD, kind, str(room), repr(size), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(said), done.stdout


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")]
)
def test_a_result_that_finds_no_room_after_all_is_the_same_error(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system counts in its own way: what it said to be free may not be."""

    def fail(*shape: object, **more: object) -> None:
        raise error

    context, model = StandaloneContext("cpu"), zoo.toy()
    with monkeypatch.context() as patch:
        patch.setattr(output.torch, "empty", fail)
        with pytest.raises(
            OutOfMemoryError, match=r"the result, 1 frame\(s\) of 40x40, takes .* are free; upscale fewer"
        ):
            upscale(zoo.photograph(20, 20), model, FP32, context, new_sessions())


def test_a_look_at_alpha_that_finds_no_room_is_our_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*told: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")

    monkeypatch.setattr("cudaspeed.images.channels.has_edges", fail)
    with pytest.raises(OutOfMemoryError, match="too little memory even for a look at the picture's transparency"):
        upscale(zoo.photograph(20, 20, 4), zoo.toy(), FP32, StandaloneContext("cpu"), new_sessions())


def test_a_limit_makes_tiles_smaller_than_they_otherwise_ever_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """And says so; where not even the smallest tile is allowed, that is the error."""
    image, model, sessions = zoo.photograph(100, 100), zoo.esrgan(), new_sessions()
    free = upscale(image, model, FP32, StandaloneContext("cpu"), sessions)
    assert free.report.tiles == 1
    monkeypatch.setattr(memory, "memory_bytes_left", lambda: 8 * MIB)
    tight = upscale(image, model, FP32, StandaloneContext("cpu"), sessions)
    assert max(tight.report.tile) < 64
    assert "the rest was computed with less" in tight.report.warnings[0]
    assert float((tight.image - free.image).abs().mean()) < 1 / 255
    monkeypatch.setattr(memory, "memory_bytes_left", lambda: MIB // 2)
    with pytest.raises(OutOfMemoryError, match=r"too little memory even for|takes .* to work in"):
        upscale(image, model, FP32, StandaloneContext("cpu"), sessions)


def test_a_model_whose_copy_does_not_fit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.toy()
    model.model.more = torch.nn.Parameter(torch.zeros(MIB))
    monkeypatch.setattr(memory, "memory_bytes_left", lambda: 2 * MIB)
    with pytest.raises(OutOfMemoryError, match="too little memory even for the model and a tiny picture"):
        upscale(zoo.photograph(20, 20), model, FP32, StandaloneContext("cpu"), new_sessions())
