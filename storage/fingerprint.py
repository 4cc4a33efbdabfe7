"""What a compiled model is good for: the device, the versions, the compiler, our own format, and which weights."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sysconfig
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from itertools import chain, compress, count
from operator import is_, methodcaller
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..api.installed import installed_version
from ..api.upstream import children_of, own_tensors, version_of

COMPILED_FORMAT = 2
"""Raised where a change of ours makes another thing of the same model: what it computes, how it is called, how fast it
is. What was compiled under another number is not used again. tests/compiling/test_format.py notices what may be such
a change, and asks."""

# Packages of the engines that are tried for a device's models beside torch's own, where they are installed.
_ENGINES = {
    "cpu": ("openvino",),
    "cuda": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
}


def describe_environment(device: torch.device) -> dict[str, str]:
    """What must be the same for a compiled model to be used again, and for a failed compile not to be tried again."""
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    return _describe_environment(device)


@lru_cache(maxsize=8)  # asked at every run, and none of it changes while the process lives
def _describe_environment(device: torch.device) -> dict[str, str]:
    return {
        "device": device.type,
        "hardware": _hardware(device),
        "system": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "cuda": torch.version.cuda or torch.version.hip or "",
        "triton": installed_version("triton") or installed_version("triton-windows"),
        "spandrel": installed_version("spandrel"),
        "compiler": _compiler(),
        "headers": " ".join(_headers()),
        "format": str(COMPILED_FORMAT),
        **{name: told for name in _ENGINES.get(device.type, ()) if (told := installed_version(name))},
    }


def card_of(device: torch.device) -> str:
    """A CUDA device's name and compute capability."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)} sm_{major}{minor}"


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return card_of(device)
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
    """The digests of a module's state, and of the weights that are not in it, made when."""

    digest: str
    beside: str
    made: float


class _Seen:
    """What a module held when it was looked at: enough to notice, at every run, that it holds something else. `number`
    is the weights' in this process, `content` their digest, once it was asked for.

    Parts are known by weak references, since one may know the module, which would never go then; tensors are held, or
    torch could not swap what a caller converts.
    """

    def __init__(self, module: nn.Module) -> None:
        self.number = next(_numbers)
        self.content: _Content | None = None
        parts = list(module.modules())
        held = [dictionary for part in parts for dictionary in own_tensors(part)]
        tensors = [tensor for dictionary in held for tensor in dictionary.values()]
        self._tensors = tensors
        self._full = [dictionary.values() for dictionary in held if dictionary]  # they show what is there now
        self._empty = [dictionary for dictionary in held if not dictionary]
        self._parents = [weakref.ref(part) for part in parts if children_of(part)]
        self._children = _These([child for part in parts for child in children_of(part).values()])
        self._childless = [children_of(part) for part in parts if not children_of(part)]
        self.unnoticed = any(tensor is not None and tensor.is_inference() for tensor in tensors)
        self._counting = [tensor is not None and not tensor.is_inference() for tensor in tensors]
        self._placed = [type(tensor) in (Tensor, nn.Parameter) for tensor in tensors]
        self._marks = self._marks_of(tensors)

    def still(self) -> bool:
        """Whether the module holds the same modules and tensors, nothing was written in place, and none was given
        other memory."""
        tensors = [*chain.from_iterable(self._full)]
        return (
            not any(self._empty)
            and len(tensors) == len(self._tensors)
            and all(map(is_, tensors, self._tensors))
            and self._marks_of(tensors) == self._marks
            and self.same_modules()
        )

    def same_modules(self) -> bool:
        """Whether the module has the parts that it had; their tensors may be others."""
        if any(self._childless):
            return False
        parents = [parent() for parent in self._parents]
        alive = [children_of(part) for part in parents if part is not None]
        return len(alive) == len(parents) and self._children.are([*chain.from_iterable(map(_VALUES, alive))])

    def _marks_of(self, tensors: list[Any]) -> list[int]:
        """What changes where a tensor is written in place, and where it gets other memory."""
        return [
            *map(version_of, compress(tensors, self._counting)),
            *map(Tensor.data_ptr, compress(tensors, self._placed)),
        ]


_VALUES = methodcaller("values")


class _These:
    """Some things, or None in their place, by weak references."""

    def __init__(self, things: list[Any]) -> None:
        self._there = [thing is not None for thing in things]
        self._known = [weakref.ref(thing) for thing in things if thing is not None]

    def are(self, things: list[Any]) -> bool:
        """Whether `things` are the same, in the same order."""
        if [thing is not None for thing in things] != self._there:
            return False
        return all(map(is_, compress(things, self._there), [known() for known in self._known]))


_numbers = count(1)
_unchanged: ContextVar[tuple[nn.Module, _Seen] | None] = ContextVar(
    "the module that is not looked at again", default=None
)
_seen: weakref.WeakKeyDictionary[nn.Module, _Seen] = weakref.WeakKeyDictionary()
_looking = threading.Lock()


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Within it this thread takes `module` for what it is at the beginning: a run asks a dozen times, and to look at
    all weights takes up to a millisecond."""
    token = _unchanged.set((module, _look(module)))
    try:
        yield
    finally:
        _unchanged.reset(token)


def content_of(module: nn.Module, since: float = 0.0) -> str:
    """A digest of everything a module's state holds: names, types, shapes, values. Some 0.1 s for 100 MB, once; again
    where a weight was written to or replaced. Writing to inference tensors cannot be noticed: of a module that has any,
    a digest counts only if it was made after `since`, a time by `time.monotonic`."""
    seen = _look(module)
    known = seen.content
    if known is None or (seen.unnoticed and known.made < since):
        with _looking:
            found = seen.content = _content_of(module)
            if known and known[:2] != found[:2]:
                seen.number = next(_numbers)
        return found.digest
    return known.digest


def versions_of(module: nn.Module) -> int:
    """A number that another takes the place of when a module's weights are written in place or replaced, or parts of it
    are. Moving a model, as hosts do, changes nothing, once its content is known; inference tensors (what is loaded
    under inference mode) do not count what is written to them.

    Cheap enough for every run: 0.25 ms for a thousand modules.
    """
    return _look(module).number


def _look(module: nn.Module) -> _Seen:
    """What is known of the module as it is now."""
    taken = _unchanged.get()
    if taken is not None and taken[0] is module:
        return taken[1]
    seen = _seen.get(module)
    if seen is not None and seen.still():
        return seen
    with _looking:
        before, seen = _seen.get(module), _Seen(module)
        if before is not None and before.content is not None and before.same_modules():
            seen.content = _content_of(module)
            if seen.content[:2] == before.content[:2]:  # it was moved, or is given the same weights again
                seen.number = before.number
        _seen[module] = seen
        return seen


def _content_of(module: nn.Module) -> _Content:
    made = time.monotonic()  # before it is read: what is written meanwhile counts as later
    buffers = dict(module.named_buffers())
    state = module.state_dict() if buffers else {}  # it takes some milliseconds for deep models
    return _Content(_digest_of(module), _digest({name: buffers[name] for name in buffers if name not in state}), made)


def _digest_of(module: nn.Module) -> str:
    return _digest(module.state_dict())


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()
