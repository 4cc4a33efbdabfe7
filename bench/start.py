"""How long one waits before anything is done: `python -m bench.start [--rounds 5]`.

Fresh processes, in turn, with warm disk caches and compiled Python, as from the second start on: the median, in seconds
and as a share of importing torch and spandrel in the same run. "nothing" is Python alone. Targets: 0.3 s for help,
version, mistakes, `cache list` and `models`; and 0.3 s for importing the pack as ComfyUI does, beyond torch and
spandrel, which that row has imported before.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from .harness import ROOT, Column, Results, Table, command_line, in_turn, percent

_IMPORTING = "importing torch and spandrel"
_COMMANDS = {
    "nothing": ["-c", "pass"],
    _IMPORTING: ["-c", "import torch, spandrel"],
    "cudaspeed --help": ["-m", "cudaspeed", "--help"],
    "cudaspeed --version": ["-m", "cudaspeed", "--version"],
    "cudaspeed upscale --tile 5000": ["-m", "cudaspeed", "upscale", "a.png", "-o", "b.png", "--tile", "5000"],
    "cudaspeed cache list": ["-m", "cudaspeed", "cache", "list"],
    "cudaspeed models": ["-m", "cudaspeed", "models"],
}
_BY_COMFYUI = """
import importlib.util, sys, time
import torch, spandrel
folder = sys.argv[1]
began = time.perf_counter()
spec = importlib.util.spec_from_file_location(folder.replace(".", "_x_"), folder + "/__init__.py")
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)
assert module.NODE_CLASS_MAPPINGS
print(time.perf_counter() - began)
"""
_TABLE = Table(
    "what",
    32,
    (
        Column("seconds", 9, lambda r: f"{r['seconds']:.3f}"),
        Column("of importing", 13, lambda r: percent(r["share"])),
    ),
)


def _started(arguments: list[str], environment: dict[str, str]) -> Callable[[], object]:
    command = [sys.executable, *arguments]
    return lambda: subprocess.run(command, capture_output=True, env=environment, check=False)


def _environment(folder: Path) -> dict[str, str]:
    """One where Python keeps what it compiles, as it does where nobody tells it not to; in `folder`."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    places = {"PYTHONPYCACHEPREFIX": str(folder / "compiled"), "CUDASPEED_CACHE_DIR": str(folder / "cache")}
    return {**kept, **places, "CUDASPEED_MODELS": ""}


def _seconds_in_comfyui(folder: Path, environment: dict[str, str]) -> float:
    """With stand-ins for the modules by which the pack knows ComfyUI."""
    (folder / "comfy").mkdir(exist_ok=True)
    (folder / "comfy" / "__init__.py").touch()
    (folder / "folder_paths.py").write_text("def add_model_folder_path(kind, folder): pass\n")
    command = [sys.executable, "-c", _BY_COMFYUI, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=True)
    return float(done.stdout)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    device = torch.device("cpu")
    results = Results(device, args.json)
    with tempfile.TemporaryDirectory() as folder:
        environment = _environment(Path(folder))
        works = {name: _started(arguments, environment) for name, arguments in _COMMANDS.items()}
        in_turn(works, 1, device)  # disk caches, and what Python makes of sources
        times = in_turn(works, args.rounds, device)
        in_comfyui = [_seconds_in_comfyui(Path(folder), environment) for _ in range(1 + args.rounds)]
        times["the pack in ComfyUI, beyond them"] = in_comfyui[1:]
    importing = statistics.median(times[_IMPORTING])
    _TABLE.head()
    for name, took in times.items():
        middle = statistics.median(took)
        row = {"what": name, "seconds": middle, "share": middle / importing, "all_seconds": took}
        results.keep(row)
        _TABLE.row(name, row)


if __name__ == "__main__":
    main()
