"""Workers of a farm that share a machine, and with it the folder of what is compiled: two processes, without Ray, and a
real compiler."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zoo
from PIL import Image
from safetensors.torch import save_file

from cudaspeed.commands.arguments import parser
from cudaspeed.storage.artifacts import ArtifactStore
from cudaspeed.storage.location import compiled_folder

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ["g++", "clang++", "cl"])), reason="no C++ compiler to compile with"
)
SECONDS = 500
WORK_IN_A_PROCESS = """
import json, logging, sys, time
from cudaspeed.commands.farm_work import make_work
from cudaspeed.compiling import job, model_entries
from cudaspeed.kernels import winograd
from cudaspeed.scaleout.actor import Folders, Worker
from cudaspeed.scaleout.units import Unit

logging.basicConfig(level=logging.INFO)
winograd.prepare = lambda folder, patience=0.0: False
model_entries._CLEARLY_SLOWER = 100.0
job._NICENESS = 0
given, folders, source, name = json.loads(sys.argv[1])
worker = Worker(make_work, given, Folders(*folders))
print("ready", flush=True)
sys.stdin.readline()
until, compiled = time.monotonic() + 400, []
while not any(compiled) and time.monotonic() < until:
    outcome = worker.do(Unit(len(compiled), source, name, "0"))
    assert not outcome.error, outcome.error
    compiled.append(outcome.record["compiled"])
print(json.dumps(compiled))
"""


def test_workers_of_one_machine_compile_once_and_go_on_meanwhile(tmp_path: Path) -> None:
    model, picture, output = tmp_path / "model.safetensors", tmp_path / "a.png", tmp_path / "out"
    save_file(zoo.compact().model.state_dict(), model)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(picture)
    workers = [start_worker(model, picture, output, number) for number in range(2)]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n", worker.communicate()
    for worker in workers:
        worker.stdin.write("begin\n")
        worker.stdin.flush()
    told = [worker.communicate(timeout=SECONDS) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], told
    began = [line for _, errors in told for line in errors.splitlines() if line.startswith("INFO:cudaspeed:compiling ")]
    assert len(began) == 1, told
    for out, _ in told:
        compiled = json.loads(out)
        assert not compiled[0], "nobody waits for it"
        assert compiled[-1], "both take it from the folder, without being started again"
    store = ArtifactStore(compiled_folder())
    assert [entry.state for entry in store.entries().values() if "shapes" in entry.what] == ["ready"]
    until = time.monotonic() + SECONDS
    while any((store.folder / "jobs").iterdir()) and time.monotonic() < until:
        time.sleep(0.1)  # the process that compiled looks for what is faster


def start_worker(model: Path, picture: Path, output: Path, number: int) -> subprocess.Popen[str]:
    """As Ray does, but for Ray."""
    folders = [str(output), *(str(output.with_name(name)) for name in ("parts", "notes"))]
    for folder in folders:
        Path(folder).mkdir(exist_ok=True)
    options = ("--device", "cpu", "--precision", "fp32", "--compile-mode", "background")
    arguments = parser().parse_args(["farm", "run", str(picture), "-o", str(output), "--model", str(model), *options])
    given = {name: value for name, value in vars(arguments).items() if name != "run"}
    told = json.dumps([given, folders, str(picture), f"{number}.png"])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", WORK_IN_A_PROCESS, told], text=True, **pipes)
