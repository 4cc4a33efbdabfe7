"""What a compiled model is good for: the device, the versions, the compiler, our own format, and which weights."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sysconfig
import time
import weakref
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from ..api.upstream import own_tensors, version_of

COMPILED_FORMAT = 1
"""Raised where a change of ours makes another thing of the same model: what it computes, how it is called, how fast it
is. What was compiled under another number is not used again. tests/compiling/test_format.py notices what may be such
a change, and asks."""


@lru_cache(maxsize=8)  # asked at every run, and none of it changes while the process lives
def describe_environment(device: torch.device) -> dict[str, str]:
    """What must be the same for a compiled model to be used again, and for a failed compile not to be tried again."""
    return {
        "device": device.type,
        "hardware": _hardware(device),
        "system": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "cuda": torch.version.cuda or torch.version.hip or "",
        "triton": _version_of("triton") or _version_of("triton-windows"),
        "spandrel": _version_of("spandrel"),
        "compiler": _compiler(),
        "headers": " ".join(_headers()),
        "format": str(COMPILED_FORMAT),
    }


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"{torch.cuda.get_device_name(device)} sm_{major}{minor}"
    if device.type == "cpu":
        # The instruction set decides, and the processor's name says more than that where the system tells it.
        return f"{torch.backends.cpu.get_cpu_capability()} {_processor()}"
    return device.type


def _processor() -> str:
    """Its name and a digest of its instructions: code compiled for some that another lacks would kill the process."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:  # no Linux
        return platform.processor()
    told = dict(line.split(":", 1) for line in lines if ":" in line)
    told = {name.strip(): value.strip() for name, value in told.items()}
    flags = " ".join(sorted(told.get("flags", told.get("Features", "")).split()))
    return f"{told.get('model name', platform.machine())} {hashlib.sha256(flags.encode()).hexdigest()[:8]}"


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _compiler() -> str:
    """The C++ compiler that would be called: its path and date, so that an installed or updated one is noticed."""
    asked = os.environ.get("CXX")
    for name in [asked] if asked else ["cl"] if platform.system() == "Windows" else ["g++", "clang++", "c++"]:
        path = shutil.which(name)
        if path:
            return f"{path} {Path(path).stat().st_mtime:.0f}"
    return "none"


def _headers() -> list[str]:
    """The C headers that generated code may include and that are not everywhere, where they are found."""
    folders = [sysconfig.get_paths()["include"], os.environ.get("CUDA_HOME", "/usr/local/cuda") + "/include"]
    # os.path's, which raises nothing: a folder that this user may not look into has no headers for it
    return [name for folder in folders for name in ("Python.h", "cuda.h") if os.path.isfile(f"{folder}/{name}")]  # noqa: PTH113


class _Content(NamedTuple):
    """A module's digest, of which versions and which tensors of it, made when."""

    versions: tuple[tuple[int, ...], tuple[int, ...]]
    digest: str
    made: float


_contents: weakref.WeakKeyDictionary[nn.Module, _Content] = weakref.WeakKeyDictionary()


def content_of(module: nn.Module, since: float = 0.0) -> str:
    """A digest of everything a module's state holds: names, types, shapes, values. Some 0.1 s for 100 MB, once; again
    where a weight was written to or replaced. Writing to inference tensors cannot be noticed: of a module that has any,
    a digest counts only if it was made after `since`, a time by `time.monotonic`."""
    weights = [weight for part in module.modules() for held in own_tensors(part) for weight in held.values()]
    unnoticed = any(weight.is_inference() for weight in weights if weight is not None)
    versions, known = (versions_of(module), tuple(map(id, weights))), _contents.get(module)
    if known is None or known.versions != versions or (unnoticed and known.made < since):
        known = _contents[module] = _Content(versions, _digest_of(module), time.monotonic())
    return known.digest


def versions_of(module: nn.Module) -> tuple[int, ...]:
    """Changes when a weight is written in place. Moving a model, as hosts do, changes nothing; inference tensors (what
    is loaded under inference mode) do not count their changes."""
    weights = (weight for part in module.modules() for held in own_tensors(part) for weight in held.values())
    return tuple(version_of(weight) for weight in weights if weight is not None and not weight.is_inference())


def _digest_of(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy())
    return digest.hexdigest()
