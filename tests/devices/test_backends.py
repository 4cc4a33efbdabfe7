"""The table of backends: what each row answers, by stand-ins of its driver; and that no answer is none, not zero."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from drivers import GIB, MIB, PLACES, WITH_ALLOCATOR, device, driver, install, metal, usual_driver

from cudaspeed.devices.backends import BACKENDS, automatic_kind, backend_of
from cudaspeed.devices.reading import DeviceMemory
from cudaspeed.memory import free_device_bytes, free_or_assumed_bytes
from cudaspeed.models.precision import fast_precisions

ROWS = [backend.name for backend in BACKENDS]
CPU = torch.device("cpu")
NONSENSE = (None, -1, True, "much", 1.5, float("nan"), 1 << 60, (), object())


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 GiB of main memory, half of them free, and no accelerator."""
    memory = SimpleNamespace(total=16 * GIB, available=8 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr("cudaspeed.memory.memory_bytes_left", lambda: None)
    monkeypatch.setattr(torch.version, "hip", None)
    for place in ("cuda", "xpu", "mps"):
        monkeypatch.setattr(torch, place, driver(is_available=False))
    for place in ("npu", "mlu"):
        monkeypatch.delattr(torch, place, raising=False)
    monkeypatch.delitem(sys.modules, "torch_directml", raising=False)


def test_the_table_has_a_row_for_every_backend() -> None:
    assert ROWS == ["CUDA", "ROCm", "XPU", "NPU", "MLU", "MPS", "DirectML", "CPU"]


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_ALLOCATOR)
def test_free_is_what_the_driver_has_and_what_torch_does_not_use(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where = install(monkeypatch, name, usual_driver())
    row = backend_of(where)
    assert row is not None
    assert (row.name, row.own_memory) == (name, True)
    assert row.memory(where) == DeviceMemory(8 * GIB, 5 * GIB, 512 * MIB)
    assert free_device_bytes(where) == 5 * GIB + 512 * MIB
    assert row.peak_bytes(where) == 1800 * MIB


@pytest.mark.parametrize("name", WITH_ALLOCATOR)
def test_a_driver_that_forgets_what_torch_took_is_not_believed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Intel's go on telling what was free before."""
    where = install(monkeypatch, name, usual_driver(mem_get_info=(8 * GIB, 8 * GIB)))
    assert free_device_bytes(where) == 6 * GIB + 512 * MIB


@pytest.mark.parametrize("name", WITH_ALLOCATOR)
@pytest.mark.parametrize("raised", [RuntimeError("doesn't support querying"), AttributeError(), OSError(), KeyError()])
def test_where_the_driver_does_not_tell_what_torch_has_not_taken_is_free(
    name: str, raised: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = usual_driver(mem_get_info=raised, get_device_properties=SimpleNamespace(total_memory=8 * GIB))
    assert free_device_bytes(install(monkeypatch, name, known)) == 6 * GIB + 512 * MIB
    unknown = usual_driver(mem_get_info=raised, get_device_properties=raised)
    assert free_device_bytes(install(monkeypatch, name, unknown)) is None


@pytest.mark.parametrize("name", WITH_ALLOCATOR)
@pytest.mark.parametrize("told", [*NONSENSE, (5 * GIB,), (9 * GIB, 8 * GIB), (0, 0), (-1, 8 * GIB), ("5", "8")])
def test_nonsense_is_no_answer(name: str, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert free_device_bytes(install(monkeypatch, name, usual_driver(mem_get_info=told))) is None


@pytest.mark.parametrize("name", WITH_ALLOCATOR)
@pytest.mark.parametrize("told", [*NONSENSE, RuntimeError(), 3 * GIB])
def test_nonsense_about_what_torch_holds_adds_nothing(name: str, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    where = install(monkeypatch, name, usual_driver(memory_allocated=told))
    assert free_device_bytes(where) == 5 * GIB
    if told != 3 * GIB:
        where = install(monkeypatch, name, usual_driver(memory_reserved=told))
        assert free_device_bytes(where) == 5 * GIB


def test_a_full_device_has_nothing_free_which_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    full = usual_driver(mem_get_info=(0, 8 * GIB), memory_allocated=2 * GIB)
    assert free_device_bytes(install(monkeypatch, "CUDA", full)) == 0
    assert free_or_assumed_bytes(device("cuda")) == 0


def test_apples_gpus_have_what_metal_recommends_and_main_memory_has(monkeypatch: pytest.MonkeyPatch) -> None:
    where = install(monkeypatch, "MPS", metal())
    row = backend_of(where)
    assert row is not None
    assert (row.own_memory, row.memory(where)) == (False, DeviceMemory(10 * GIB, 7 * GIB, GIB))
    assert free_device_bytes(where) == 8 * GIB
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=16 * GIB, available=2 * GIB))
    assert free_device_bytes(where) == 3 * GIB, "what torch holds is not free in main memory"
    monkeypatch.setattr("cudaspeed.memory.memory_bytes_left", lambda: GIB)
    assert free_device_bytes(where) == 2 * GIB
    assert row.peak_bytes(where) is None


@pytest.mark.parametrize("counter", ["recommended_max_memory", "driver_allocated_memory"])
@pytest.mark.parametrize("told", [*NONSENSE, RuntimeError()])
def test_apples_gpus_without_counters_give_no_answer(counter: str, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert free_device_bytes(install(monkeypatch, "MPS", metal(**{counter: told}))) is None
    assert free_device_bytes(install(monkeypatch, "MPS", SimpleNamespace())) is None


def test_more_taken_than_metal_recommends_leaves_what_torch_does_not_use(monkeypatch: pytest.MonkeyPatch) -> None:
    where = install(monkeypatch, "MPS", metal(driver_allocated_memory=12 * GIB, current_allocated_memory=11 * GIB))
    assert free_device_bytes(where) == GIB


def test_directml_tells_nothing_and_counts_where_it_was_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backend_of(device("privateuseone")) is None
    where = install(monkeypatch, "DirectML", driver(is_available=True, gpu_memory=[0.5, 0.25]))
    row = backend_of(where)
    assert row is not None
    assert (row.is_there(), row.memory(where), free_device_bytes(where)) == (True, None, None)
    assert fast_precisions(where) == ("fp16",)


@pytest.mark.parametrize("left", [None, 9 * GIB, 3 * GIB, 0])
def test_a_cpu_has_main_memory_as_far_as_limits_let_it(left: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cudaspeed.memory.memory_bytes_left", lambda: left)
    assert free_device_bytes(CPU) == min(8 * GIB, 8 * GIB if left is None else left)


def test_a_system_that_does_not_tell_its_memory_gives_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    for told in (None, SimpleNamespace(), SimpleNamespace(total=8 * GIB, available=9 * GIB)):
        monkeypatch.setattr(psutil, "virtual_memory", lambda told=told: told)
        assert free_device_bytes(CPU) is None

    def nothing() -> None:
        raise OSError(2, "No such file or directory", "/proc/meminfo")

    monkeypatch.setattr(psutil, "virtual_memory", nothing)
    assert free_device_bytes(CPU) is None
    assert free_or_assumed_bytes(CPU) == GIB
    monkeypatch.setattr("cudaspeed.memory.memory_bytes_left", lambda: 300 * MIB)
    assert free_or_assumed_bytes(CPU) == 300 * MIB


@pytest.mark.parametrize("kind", ["hpu", "xla", "vulkan", "privateuseone", "npu", "mlu", "meta", "abacus"])
def test_of_kinds_that_nobody_has_told_of_nothing_is_known(kind: str) -> None:
    where = device(kind)
    assert backend_of(where) is None
    assert free_device_bytes(where) is None
    assert fast_precisions(where) == ()


# --- what else --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*WITH_ALLOCATOR, "MPS", "DirectML"])
def test_everything_may_raise(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __getattr__(self, asked: str) -> Any:
            raise SystemError(f"{asked}: driver/library version mismatch")

    where = install(monkeypatch, name, Broken())
    row = backend_of(where)
    assert row is not None
    assert not row.is_there()
    assert row.memory(where) is row.peak_bytes(where) is None
    assert row.fast_precisions(where) in ((), ("fp16",), ("fp16", "bf16"))
    row.forget_peak(where)
    row.release_cached()


@pytest.mark.parametrize("name", [*WITH_ALLOCATOR, "MPS"])
def test_caches_are_cleared_by_the_backends_own_function(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    module = usual_driver(
        empty_cache=lambda: called.append("cleared"), reset_peak_memory_stats=lambda where: called.append("forgotten")
    )
    where = install(monkeypatch, name, module)
    row = backend_of(where)
    assert row is not None
    row.forget_peak(where)
    row.release_cached()
    assert called == ["forgotten", "cleared"]


@pytest.mark.parametrize("told", NONSENSE)
def test_a_peak_that_is_none_is_not_told(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    where = install(monkeypatch, "XPU", usual_driver(max_memory_allocated=told))
    row = backend_of(where)
    assert row is not None
    assert row.peak_bytes(where) is None


def test_automatic_takes_the_first_of_the_table_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert automatic_kind() == "cpu"
    install(monkeypatch, "DirectML", driver(is_available=True))
    assert automatic_kind() == "cpu", "DirectML is for whoever names it"
    for name in ("MPS", "MLU", "NPU", "XPU", "ROCm"):
        install(monkeypatch, name, driver(is_available=True))
        assert automatic_kind() == PLACES[name]
    install(monkeypatch, "CUDA", driver(is_available=RuntimeError("forked")))
    assert automatic_kind() == "xpu"


def test_rocm_and_cuda_are_told_apart_by_what_torch_is_built_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA", "ROCm"):
        row = backend_of(install(monkeypatch, name, usual_driver()))
        assert row is not None
        assert row.name == name


def test_nobodys_package_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = ("torch_npu", "torch_mlu", "torch_directml", "intel_extension_for_pytorch")
    for package in packages:
        (tmp_path / f"{package}.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert automatic_kind() == "cpu"
    for kind in ("cuda", "xpu", "npu", "mlu", "mps", "privateuseone", "cpu"):
        free_device_bytes(device(kind))
        fast_precisions(device(kind))
    assert not {*packages} & {*sys.modules}


# --- number types -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "capability", "expected"),
    [
        ("NVIDIA GeForce GTX 1080", (6, 1), ()),
        ("Tesla V100-SXM2-16GB", (7, 0), ("fp16",)),
        ("NVIDIA GeForce RTX 2080", (7, 5), ("fp16",)),
        ("NVIDIA GeForce GTX 1660 SUPER", (7, 5), ()),
        ("NVIDIA T1000 8GB", (7, 5), ()),
        ("Quadro T2000", (7, 5), ()),
        ("NVIDIA GeForce MX450", (7, 5), ()),
        ("NVIDIA CMP 30HX", (7, 5), ()),
        ("Quadro RTX 5000", (7, 5), ("fp16",)),
        ("Tesla T4", (7, 5), ("fp16",)),
        ("NVIDIA GeForce RTX 3060", (8, 6), ("fp16", "bf16")),
        ("NVIDIA H100 80GB HBM3", (9, 0), ("fp16", "bf16")),
        ("NVIDIA GeForce RTX 5090", (12, 0), ("fp16", "bf16")),
        ("NVIDIA Thor", RuntimeError("no CUDA GPUs are available"), ()),
    ],
)
def test_nvidias_cards(card: str, capability: Any, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    where = install(monkeypatch, "CUDA", driver(get_device_capability=capability, get_device_name=card))
    assert fast_precisions(where) == expected


@pytest.mark.parametrize(
    ("architecture", "bf16"),
    [
        ("gfx803", False),
        ("gfx900", False),
        ("gfx906:sramecc-:xnack-", False),
        ("gfx908:sramecc+:xnack-", True),
        ("gfx90a:sramecc+:xnack-", True),
        ("gfx942", True),
        ("gfx950", True),
        ("gfx1010", False),
        ("gfx1030", False),
        ("gfx1036", False),
        ("gfx1100", True),
        ("gfx1151", True),
        ("gfx1201", True),
        (None, False),
    ],
)
def test_amds_cards(architecture: str | None, bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose capability is none of NVIDIA's: that of gfx1030 is 10.3."""
    properties = SimpleNamespace(gcnArchName=architecture)
    where = install(monkeypatch, "ROCm", driver(get_device_properties=properties, get_device_capability=(10, 3)))
    assert fast_precisions(where) == (("fp16", "bf16") if bf16 else ("fp16",))


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        (SimpleNamespace(has_fp16=True, has_bfloat16_conversions=True), ("bf16", "fp16")),
        (SimpleNamespace(has_fp16=True, has_bfloat16_conversions=False), ("fp16",)),
        (SimpleNamespace(has_fp16=False, has_bfloat16_conversions=False), ()),
        (SimpleNamespace(), ("bf16", "fp16")),
        (RuntimeError("no XPU devices are available"), ()),
    ],
)
def test_intels_cards(properties: Any, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    assert fast_precisions(install(monkeypatch, "XPU", driver(get_device_properties=properties))) == expected


@pytest.mark.parametrize(
    ("name", "module", "expected"),
    [
        ("NPU", driver(is_bf16_supported=True), ("fp16", "bf16")),
        ("NPU", driver(is_bf16_supported=False), ("fp16",)),
        ("NPU", driver(), ("fp16", "bf16")),
        ("MLU", driver(get_device_properties=SimpleNamespace(major=5)), ("fp16", "bf16")),
        ("MLU", driver(get_device_properties=SimpleNamespace(major=3)), ("fp16",)),
        ("MLU", driver(), ("fp16",)),
        ("CPU", driver(get_capabilities={"avx512_bf16": True}), ("bf16",)),
        ("CPU", driver(get_capabilities={"amx_bf16": True}), ("bf16",)),
        ("CPU", driver(get_capabilities={"avx2": True}), ()),
        ("CPU", driver(), ()),
    ],
)
def test_the_others(name: str, module: Any, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    assert fast_precisions(install(monkeypatch, name, module)) == expected


@pytest.mark.parametrize(("new", "expected"), [(True, ("fp16", "bf16")), (False, ("fp16",))])
def test_apples_gpus_have_bf16_since_macos_14(
    new: bool, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *version: asked.append(version) or new)
    assert fast_precisions(install(monkeypatch, "MPS", metal())) == expected
    assert asked == [(14, 0)]
