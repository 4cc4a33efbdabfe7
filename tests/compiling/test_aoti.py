"""What compiling takes from torch under private names: that it is there, as each torch had it, and which changed it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from cudaspeed.api import upstream
from cudaspeed.compiling import aoti


def version() -> tuple[int, int]:
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)


def loader() -> type:
    return torch._C._aoti.AOTIModelPackageLoader


# What the loader takes after file and model, by the first version that had it: one thread, how many at once, device.
# Read off 2.6, 2.7.1, 2.8, 2.11 and 2.15, which takes one more and has defaults.
TAKEN = {(2, 6): (), (2, 7): (bool,), (2, 8): (bool, int, int)}


@pytest.mark.parametrize("taken", TAKEN.values(), ids=[f"{major}.{minor}" for major, minor in TAKEN])
def test_every_versions_loader_is_called_as_it_wants_it(
    taken: tuple[type, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def known(path: str, model: str, *more: object) -> tuple[object, ...]:
        if tuple(map(type, more)) != taken:
            raise TypeError("incompatible constructor arguments")
        return path, model, *more

    monkeypatch.setattr(torch._C._aoti, "AOTIModelPackageLoader", known)
    assert upstream.package_loader("file", torch.device("cpu"))[:2] == ("file", "model")
    assert upstream.package_loader("file", torch.device("cuda", 1))[4:] == ((1,) if len(taken) == 3 else ())


def test_a_loaded_package_is_run() -> None:
    assert callable(loader().run)


def test_what_is_no_package_is_an_error_that_can_be_caught(tmp_path: Path) -> None:
    """This torch's loader, too, is called as it wants it: it complains of the file."""
    (tmp_path / "no.pt2").write_bytes(b"PK\x03\x04 not what it seems")
    with pytest.raises(RuntimeError):
        upstream.package_loader(str(tmp_path / "no.pt2"), torch.device("cpu"))


def test_the_compiler_takes_a_program_a_path_and_options() -> None:
    """Documented, with a private name on the way; the same since 2.6."""
    from inspect import signature

    from torch import _inductor

    assert {"package_path", "inductor_configs"} <= signature(_inductor.aoti_compile_and_package).parameters.keys()


def test_the_compiler_knows_the_options_that_make_a_package_whole() -> None:
    """Those that another version does not know are left out, but without this one there are no weights in it."""
    known = upstream.compiler_options()
    assert "aot_inductor.package_constants_in_so" in known or version() == (2, 6)
    assert {"freezing", "max_autotune", "cpp.dynamic_threads"} <= {*known}


def test_the_processor_can_be_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The method that `trust_the_processor` replaces: there since before 2.6."""
    from torch._inductor import cpu_vec_isa

    assert callable(cpu_vec_isa.VecISA.check_build)
    monkeypatch.setattr(cpu_vec_isa.VecISA, "check_build", cpu_vec_isa.VecISA.check_build)
    upstream.trust_the_processor()
    assert cpu_vec_isa.VecISA().check_build("")


# --- where torch puts a package while it is in use -------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="no such folders there")
def test_nothing_is_unpacked_where_others_could_put_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TMPDIR", "TMP", "TEMP", "TEMPDIR"):
        monkeypatch.delenv(name, raising=False)
    aoti.check_unpacking()
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "open"))
    monkeypatch.setattr(aoti, "package_loader", lambda path, device: pytest.fail("it was loaded"))
    with pytest.raises(OSError, match="set TMPDIR to a folder of your own"):
        aoti.load_package(tmp_path / "model.pt2", torch.device("cpu"))
    (tmp_path / "open").chmod(0o1777)
    aoti.check_unpacking()
