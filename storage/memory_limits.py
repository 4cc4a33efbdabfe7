"""How much more main memory this process is allowed, whatever the machine has: by the control groups that it is in
(a container's, a service's, a session's; each ancestor's limit counts), and by its own resource limits.

After cgroups(7) and the kernel's admin-guide/cgroup-v2 and cgroup-v1/memory, proc(5) for what lies in /proc/self, and
getrlimit(2). Swap does not count. Only Linux has such files; elsewhere no limit is found. It is asked some times a run:
where a process's groups are mounted is looked up once, what limits them once a second, and all else every time.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]


class _Version(NamedTuple):
    """How one of the two versions of control groups is mounted, and what its files are called. `limits` hold a number
    of bytes, or "max"; `inherited` and `gives_way` are names in memory.stat: the least limit of all ancestors, those
    that a container does not show included, and what was read from files lately, which counts as used."""

    filesystem: str
    usual_mount: str
    limits: tuple[str, ...]
    used: str
    inherited: str | None
    gives_way: str


_VERSIONS = (
    _Version("cgroup2", "sys/fs/cgroup", ("memory.max", "memory.high"), "memory.current", None, "inactive_file"),
    _Version(
        "cgroup", "sys/fs/cgroup/memory", ("memory.limit_in_bytes",), "memory.usage_in_bytes",
        "hierarchical_memory_limit", "total_inactive_file",
    ),
)  # fmt: skip
# The name in /proc/self/limits, and what is held against it in /proc/self/status.
_RESOURCES = (("Max address space", "VmSize"), ("Max data size", "VmData"))


# What the first version says where nothing limits a group: the most pages that fit a signed long, of whatever size.
_NO_LIMIT = 1 << 62


class _Group(NamedTuple):
    """A control group's files."""

    version: _Version
    limits: tuple[Path, ...]
    used: Path
    stat: Path


class _Mount(NamedTuple):
    """Where control groups are mounted, and which of them is shown there as the topmost."""

    point: Path
    shows: PurePosixPath


def memory_bytes_left(root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> int | None:
    """The bytes that this process may still take before a limit is met, 0 at least; None where nothing limits it.

    `root` is where /proc and the control groups are looked for. What cannot be read, or understood, limits nothing.
    """
    groups, resources = _limits(root, int(clock()), _set_limits())
    status = _text(root / "proc/self/status") if resources else ""
    left = [*_left_by_groups(groups), *_left_by_resources(resources, status)]
    return max(0, min(left)) if left else None


def bytes_left_by_groups(root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> int | None:
    """The same by control groups alone, beyond which the process is ended and not told."""
    groups, _ = _limits(root, int(clock()), _set_limits())
    return max(0, min(_left_by_groups(groups))) if groups else None


def has_own_limits(root: Path = Path("/")) -> bool:
    """Whether the process has a limit of its own, of its address space or its data, against which every further thread
    counts with its stack and its heap, 70 MiB and more, used or not."""
    return bool(_resources(root))


class _Limits(NamedTuple):
    """What limits this process: some of its groups, each to so many bytes, and its own limits, by the names of what
    counts against them in /proc/self/status."""

    groups: Sequence[tuple[_Group, int]]
    resources: Mapping[str, int]


@lru_cache(maxsize=8)
def _limits(root: Path, second: int, own: tuple[tuple[int, int], ...]) -> _Limits:  # others, or later: another look
    return _Limits(tuple(_limited_groups(root)), _resources(root))


def _set_limits() -> tuple[tuple[int, int], ...]:
    """What the process's own limits are set to, told in a moment: what is lowered counts at once."""
    if resource is None:
        return ()
    return resource.getrlimit(resource.RLIMIT_AS), resource.getrlimit(resource.RLIMIT_DATA)


def _resources(root: Path) -> dict[str, int]:
    """The process's own limits, by the names of what counts against them in /proc/self/status."""
    told = _text(root / "proc/self/limits")
    found = {counted: re.search(rf"^{limit} +(\d+) ", told, re.MULTILINE) for limit, counted in _RESOURCES}
    return {counted: int(most[1]) for counted, most in found.items() if most}  # none where it is "unlimited"


def _limited_groups(root: Path) -> Iterator[tuple[_Group, int]]:
    """Those of this process's groups that limit it, and to how many bytes."""
    for group in _groups(root, _text(root / "proc/self/cgroup")):
        inherited = group.version.inherited
        known = [_number(_text(path)) for path in group.limits]
        known += [_counted(inherited, _text(group.stat))] if inherited else []
        limit = min((limit for limit in known if limit is not None), default=_NO_LIMIT)
        if limit < _NO_LIMIT:
            yield group, limit


def _left_by_groups(groups: Iterable[tuple[_Group, int]]) -> Iterator[int]:
    """What each of the groups leaves, in which this process is."""
    for (version, _, used, stat), limit in groups:
        yield limit - (_number(_text(used)) or 0) + (_counted(version.gives_way, _text(stat)) or 0)


def _counted(name: str, stat: str) -> int | None:
    """What a memory.stat tells under `name`."""
    found = re.search(rf"^{name} (\d{{1,20}})$", stat, re.MULTILINE)
    return int(found[1]) if found else None


@lru_cache(maxsize=8)
def _groups(root: Path, told: str) -> tuple[_Group, ...]:
    """This process's groups and their ancestors, as far as they are shown, where /proc/self/cgroup has `told`."""
    return tuple(
        _Group(version, tuple(folder / name for name in version.limits), folder / version.used, folder / "memory.stat")
        for version in _VERSIONS
        for folder in _folders(version, root, told)
    )


def _folders(version: _Version, root: Path, told: str) -> Iterator[Path]:
    """The folders of this process's group and its ancestors."""
    group = _group(version, told)
    mounts = list(_mounts(version, _text(root / "proc/self/mountinfo"), root))
    mounts = mounts or [_Mount(root / version.usual_mount, PurePosixPath("/"))]
    # Of several, the one that shows the most ancestors. In a container none may show the group by its name, because a
    # namespace hides what is above it; there the topmost that is shown is the container's own.
    fitting = [mount for mount in mounts if ".." not in group.parts and group.is_relative_to(mount.shows)]
    mount = min(fitting, key=lambda mount: len(mount.shows.parts), default=None)
    below = group.relative_to(mount.shows) if mount else PurePosixPath()
    point = (mount or mounts[0]).point
    return (point / part for part in (below, *below.parents))


def _group(version: _Version, told: str) -> PurePosixPath:
    """This process's group, by /proc/self/cgroup: "number:controllers:path" a line. The topmost, if it is not told."""
    for line in told.splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if (
            ("memory" in controllers.split(","))
            if version.filesystem == "cgroup"
            else (number, controllers) == ("0", "")
        ):
            return PurePosixPath(path or "/")
    return PurePosixPath("/")


def _mounts(version: _Version, told: str, root: Path) -> Iterator[_Mount]:
    """Where the groups of a version are mounted, by /proc/self/mountinfo: "id parent device shown point ... -
    filesystem source options" a line."""
    for line in told.splitlines():
        before, _, after = line.partition(" - ")
        fields, (filesystem, _, options) = before.split(), [*after.split(), "", "", ""][:3]
        limits_memory = version.filesystem == "cgroup2" or "memory" in options.split(",")
        if len(fields) > 4 and filesystem == version.filesystem and limits_memory:
            shown, point = (re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), name) for name in fields[3:5])
            yield _Mount(root / point.lstrip("/"), PurePosixPath(shown))


def _left_by_resources(resources: Mapping[str, int], status: str) -> Iterator[int]:
    """What the process's own limits leave of what counts against them, by /proc/self/status."""
    for counted, most in resources.items():
        taken = re.search(rf"^{counted}:\s*(\d+) kB$", status, re.MULTILINE)
        if taken:
            yield most - 1024 * int(taken[1])


def _text(path: Path) -> str:
    """The file's text; none where it cannot be read."""
    with contextlib.suppress(OSError, ValueError), path.open("rb", buffering=0) as file:  # a name with a zero in it
        return (file.read() or b"").decode(errors="surrogateescape")
    return ""


def _number(text: str) -> int | None:
    """None for "max", which is no limit, and for what is no number of bytes."""
    return int(text) if re.fullmatch(r"\d{1,20}\n?", text) else None
