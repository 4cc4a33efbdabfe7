"""What limits leave of the memory: over trees of files as kernels, containers and services lay them out."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from cudaspeed.storage.memory_limits import memory_bytes_left

MIB = 2**20
ROOT = "24 1 0:22 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"
V2 = "30 23 0:26 {shown} {point} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "35 31 0:32 {shown} {point} rw,relatime shared:9 - cgroup cgroup rw,memory"
V1_CPU = "34 31 0:31 {shown} /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct"


def mounts(*lines: str, shown: str = "/", point: str = "") -> str:
    """/proc/self/mountinfo."""
    usual = {V2: "/sys/fs/cgroup", V1: "/sys/fs/cgroup/memory"}
    told = [line.format(shown=shown, point=point or usual.get(line, "")) for line in lines]
    return "\n".join([ROOT, *told, ""])


def v2(most: int | str, used: int, cached: int = 0, high: int | str = "max") -> dict[str, str]:
    """A group's files; MiB."""
    return {
        "memory.max": f"{most if isinstance(most, str) else most * MIB}\n",
        "memory.high": f"{high if isinstance(high, str) else high * MIB}\n",
        "memory.current": f"{used * MIB}\n",
        "memory.stat": f"anon {5 * MIB}\nactive_file 99999\ninactive_file {cached * MIB}\nslab 12\n",
    }


def v1(most: int | None, used: int, cached: int = 0, inherited: int | None = None) -> dict[str, str]:
    """A group's files; MiB."""
    unlimited = 9223372036854771712
    least = min(m * MIB if m is not None else unlimited for m in (most, inherited))
    return {
        "memory.limit_in_bytes": f"{unlimited if most is None else most * MIB}\n",
        "memory.usage_in_bytes": f"{used * MIB}\n",
        "memory.stat": f"inactive_file 7\nhierarchical_memory_limit {least}\ntotal_inactive_file {cached * MIB}\n",
        "memory.memsw.limit_in_bytes": f"{unlimited}\n",
    }


SECONDS = itertools.count(1.0)  # a clock by which nothing was asked in the same second


def tree(root: Path, told: Mapping[str, str], **groups: Mapping[str, str]) -> Path:
    """Files of /proc/self, and of groups by their folder."""
    for name, text in told.items():
        path = root / "proc/self" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for folder, files in groups.items():
        for name, text in files.items():
            path = root / folder.lstrip("/") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return root


def left(root: Path, cgroup: str, mountinfo: str, groups: Mapping[str, Mapping[str, str]]) -> int | None:
    """In MiB."""
    found = memory_bytes_left(tree(root, {"cgroup": cgroup, "mountinfo": mountinfo}, **groups), SECONDS.__next__)
    return None if found is None else found // MIB


@pytest.mark.parametrize(
    ("files", "free"),
    [
        (v2("max", 500), None),
        (v2(3000, 1000), 2000),
        (v2(3000, 2900, cached=1500), 1600),  # files that were read give way
        (v2(3000, 3100), 0),
        (v2("max", 1000, high=1500), 500),  # beyond it the kernel slows a group down to a crawl
        (v2(3000, 1000, high=2000), 1000),
        (v2(2000, 1000, high=3000), 1000),
        ({**v2(3000, 1000), "memory.current": "?"}, 3000),
        ({**v2(3000, 1000), "memory.stat": "inactive_file many\n\n\nx y z"}, 2000),
        ({"memory.max": "1048576"}, 1),
        ({"memory.max": "12 MiB"}, None),
        ({"memory.max": "-1\n"}, None),
        ({"memory.max": ""}, None),
        ({"memory.max": "9" * 5000}, None),
        ({"memory.max": "\x00\xff"}, None),
    ],
)
def test_one_group(tmp_path: Path, files: Mapping[str, str], free: int | None) -> None:
    """A container with a namespace of its own: its group is the topmost that it sees."""
    assert left(tmp_path, "0::/\n", mounts(V2), {"/sys/fs/cgroup": files}) == free


def test_every_ancestors_limit_counts(tmp_path: Path) -> None:
    """A service in a slice, in another; the least of what they leave."""
    groups = {
        "/sys/fs/cgroup": {"memory.stat": "inactive_file 0\n"},  # the topmost of all has no limit
        "/sys/fs/cgroup/user.slice": v2(8000, 7600, cached=100),
        "/sys/fs/cgroup/user.slice/user-1000.slice": v2(6000, 2000),
        "/sys/fs/cgroup/user.slice/user-1000.slice/app": v2("max", 1000),
        "/sys/fs/cgroup/system.slice": v2(1, 1),
    }
    assert left(tmp_path, "0::/user.slice/user-1000.slice/app\n", mounts(V2), groups) == 500
    assert left(tmp_path, "0::/system.slice/gone (deleted)\n", mounts(V2), groups) == 0
    assert left(tmp_path, "0::/elsewhere\n", mounts(V2), groups) is None


@pytest.mark.parametrize(
    ("files", "free"),
    [
        (v1(None, 500), None),
        (v1(3000, 1000), 2000),
        (v1(3000, 2900, cached=1500), 1600),
        (v1(3000, 3100), 0),
        (v1(None, 1000, inherited=1200), 200),  # of an ancestor that the container does not show
        ({"memory.limit_in_bytes": "max"}, None),
    ],
)
def test_one_group_of_the_first_version(tmp_path: Path, files: Mapping[str, str], free: int | None) -> None:
    found = left(tmp_path, "4:memory:/docker/1f\n1:cpu:/docker/1f\n", mounts(V1_CPU, V1, shown="/docker/1f"),
                 {"/sys/fs/cgroup/memory": files})  # fmt: skip
    assert found == free


def test_nested_groups_of_the_first_version(tmp_path: Path) -> None:
    groups = {
        "/sys/fs/cgroup/memory": v1(None, 5000),
        "/sys/fs/cgroup/memory/slurm": v1(4000, 3000),
        "/sys/fs/cgroup/memory/slurm/job_1": v1(2000, 1500),
        "/sys/fs/cgroup/memory/slurm/job_1/step": v1(None, 1500),
        "/sys/fs/cgroup/cpu/slurm/job_1": v1(1, 1),
    }
    told = "11:cpuset:/\n9:hugetlb,memory:/slurm/job_1/step\n3:cpu,cpuacct:/slurm/job_1\n0::/\n"
    assert left(tmp_path, told, mounts(V1_CPU, V1), groups) == 500


def test_both_versions_beside_each_other(tmp_path: Path) -> None:
    """The second one then limits no memory, as a rule; where it does, it counts."""
    groups = {
        "/sys/fs/cgroup/memory/job": v1(3000, 1000),
        "/sys/fs/cgroup/unified/job": {"cgroup.procs": "1\n"},
    }
    told = "5:memory:/job\n1:name=systemd:/job\n0::/job\n"
    mounted = mounts(V1) + V2.format(shown="/", point="/sys/fs/cgroup/unified") + "\n"
    assert left(tmp_path / "usual", told, mounted, groups) == 2000
    groups["/sys/fs/cgroup/unified/job"] = v2(500, 400)
    assert left(tmp_path / "other", told, mounted, groups) == 100


@pytest.mark.parametrize(
    ("group", "shown", "folder"),
    [
        ("/docker/1f", "/docker/1f", ""),  # without a namespace
        ("/docker/1f/inner/most", "/docker/1f", "inner/most"),
        ("/", "/kubepods/pod1/1f", ""),  # with one; mounted from outside of it
        ("/", "/..", ""),
        ("/../../sibling", "/", ""),  # it was moved out of its namespace
        ("/inner", "/", "inner"),
    ],
)
def test_what_a_container_shows(tmp_path: Path, group: str, shown: str, folder: str) -> None:
    for name, line, files in (("2", V2, v2(700, 400)), ("1", V1, v1(700, 400))):
        point = "/sys/fs/cgroup" if name == "2" else "/sys/fs/cgroup/memory"
        told = f"0::{group}\n" if name == "2" else f"7:memory:{group}\n"
        outside = {"/sys/sibling": files, "/sibling": files, point.rpartition("/")[0] + "/sibling": v2(1, 1)}
        groups = {**outside, f"{point}/{folder}": files}
        assert left(tmp_path / name, told, mounts(line, shown=shown), groups) == 300


def test_of_several_mounts_the_one_that_shows_the_most_and_never_anothers(tmp_path: Path) -> None:
    """A machine that runs containers has theirs mounted, too."""
    groups = {"/sys/fs/cgroup/a": v2(900, 100), "/sys/fs/cgroup/a/b": v2(800, 100), "/c": v2(2, 1), "/b": v2(800, 100)}
    lines = [
        V2.format(shown=shown, point=point) for shown, point in (("/x", "/c"), ("/a/b", "/b"), ("/", "/sys/fs/cgroup"))
    ]
    assert left(tmp_path, "0::/a/b\n", "\n".join(lines), groups) == 700
    groups["/sys/fs/cgroup/a"] = v2(900, 600)
    assert left(tmp_path / "again", "0::/a/b\n", "\n".join(lines), groups) == 300


def test_a_mount_point_with_a_space(tmp_path: Path) -> None:
    mounted = mounts(V2, shown="/my\\040jobs", point="/mnt/c\\040groups")
    assert left(tmp_path, "0::/my jobs/1\n", mounted, {"/mnt/c groups/1": v2(70, 30)}) == 40


@pytest.mark.parametrize("told", [None, "", "garbage", "0:", "::::\n:\n", "0::\n", "\x00\n0::/\x00\n"])
@pytest.mark.parametrize("mounted", [None, "", "garbage - - -", " - cgroup2", "1 2 3 4 - cgroup2 x y"])
def test_without_a_word_of_where_it_is_the_usual_place(tmp_path: Path, told: str | None, mounted: str | None) -> None:
    files = {name: text for name, text in (("cgroup", told), ("mountinfo", mounted)) if text is not None}
    assert memory_bytes_left(tree(tmp_path, files, **{"/sys/fs/cgroup": v2(300, 100)})) == 200 * MIB


def test_nowhere_is_no_limit(tmp_path: Path) -> None:
    """As on macOS and Windows."""
    assert memory_bytes_left(tmp_path) is None


def test_what_may_not_be_read_is_no_limit(tmp_path: Path) -> None:
    """A folder in the place of each file cannot be read by anyone."""
    for name in ("cgroup", "mountinfo", "limits", "status"):
        (tmp_path / "proc/self" / name).mkdir(parents=True)
    for name in ("memory.max", "memory.current", "memory.stat"):
        (tmp_path / "sys/fs/cgroup" / name).mkdir(parents=True)
    assert memory_bytes_left(tmp_path) is None


LIMITS = (
    "Limit                     Soft Limit           Hard Limit           Units     \n"
    "Max cpu time              unlimited            unlimited            seconds   \n"
    "Max data size             {data:<20} unlimited            bytes     \n"
    "Max resident set          1                    1                    bytes     \n"
    "Max address space         {space:<20} unlimited            bytes     \n"
)
STATUS = (
    "Name:\tpython\nVmPeak:\t 9000000 kB\nVmSize:\t 2048000 kB\nVmRSS:\t 100 kB\nVmData:\t 1024000 kB\nThreads:\t1\n"
)


@pytest.mark.parametrize(
    ("data", "space", "free"),
    [
        ("unlimited", "unlimited", None),
        ("unlimited", 3000 * MIB, 1000),
        (1500 * MIB, "unlimited", 500),
        (1500 * MIB, 2100 * MIB, 100),
        (1500 * MIB, 1000 * MIB, 0),
    ],
)
def test_the_process_has_limits_of_its_own(tmp_path: Path, data: int | str, space: int | str, free: int | None) -> None:
    files = {"limits": LIMITS.format(data=data, space=space), "status": STATUS}
    found = memory_bytes_left(tree(tmp_path, files))
    assert found == (None if free is None else free * MIB)
    group = {"/sys/fs/cgroup": v2(1000, 600)}
    later = memory_bytes_left(tree(tmp_path, files, **group), clock=lambda: 1.0)  # another second than it was
    assert later == min(400, 400 if free is None else free) * MIB


def test_what_is_used_is_read_every_time_and_what_limits_once_a_second(tmp_path: Path) -> None:
    group, times = "/sys/fs/cgroup", iter([7.1, 7.7, 8.3])
    found = []
    for limit, used in ((1000, 600), (900, 700), (900, 700)):
        root = tree(tmp_path, {"cgroup": "0::/"}, **{group: v2(limit, used)})
        found.append(memory_bytes_left(root, times.__next__))
    assert found == [400 * MIB, 300 * MIB, 200 * MIB]


def test_so_it_is_with_the_process_s_own_limits(tmp_path: Path) -> None:
    times, found = iter([7.1, 7.7, 8.3]), []
    for limit, used in ((3000, "2048000 kB"), (2500, "1024000 kB"), (2500, "1024000 kB")):
        files = {"limits": LIMITS.format(data="unlimited", space=limit * MIB), "status": f"VmSize:\t {used}\n"}
        found.append(memory_bytes_left(tree(tmp_path, files), times.__next__))
    assert found == [1000 * MIB, 2000 * MIB, 1500 * MIB]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux heeds them")
@pytest.mark.parametrize("name", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_it_knows_the_limits_that_this_kernel_sets(name: str) -> None:
    """What it says is left can be taken, and half as much more cannot."""
    code = f"""
import importlib.util, mmap, resource, sys
spec = importlib.util.spec_from_file_location("memory_limits", sys.argv[1])
limits = importlib.util.module_from_spec(spec)
spec.loader.exec_module(limits)
resource.setrlimit(resource.{name}, (400 << 20, 400 << 20))
left = limits.memory_bytes_left()
assert 100 << 20 < left <= 400 << 20, left
private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
try:
    mmap.mmap(-1, left * 3 // 2, private)
except OSError:
    pass
else:
    raise SystemExit("more than is left")
taken = mmap.mmap(-1, left - (8 << 20), private)
assert limits.memory_bytes_left() <= 16 << 20
"""
    script = Path(sys.modules[memory_bytes_left.__module__].__file__ or "")
    done = subprocess.run([sys.executable, "-c", code, str(script)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
