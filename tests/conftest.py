"""The pack's folder is a package for ComfyUI, whatever its name; pytest must not import it under that name."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).absolute().parent.parent


class PlainRoot:
    """Collects the pack's folder as a plain directory, in spite of its `__init__.py`."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


@pytest.fixture(autouse=True)
def own_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes what this machine's user has compiled."""
    monkeypatch.setenv("CUDASPEED_CACHE_DIR", str(tmp_path / "compiled"))


@pytest.fixture(scope="session", autouse=True)
def interrupts_are_heard() -> None:
    """A shell that starts the tests in the background has them ignored, and so would every process they start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def kernels_are_built(tmp_path_factory: pytest.TempPathFactory) -> None:
    """They stay loaded: a run does not wait for them, and which test comes first is not to decide."""
    if "torch" in sys.modules:
        from cudaspeed.kernels import linear, transformer_block, window_attention, winograd

        for kernels in (winograd, linear, window_attention, transformer_block):
            kernels.prepare(tmp_path_factory.mktemp("kernels"), 60.0)


@pytest.fixture
def plain_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without kernels of ours, where compiling is what makes models faster."""
    monkeypatch.setattr("cudaspeed.kernels.winograd.prepare", lambda folder, patience=0.0: False)
    monkeypatch.setattr("cudaspeed.kernels.linear.prepare", lambda folder, patience=0.0: False)
    monkeypatch.setattr("cudaspeed.kernels.transformer_block.prepare", lambda folder, patience=0.0: False)
    monkeypatch.setattr("cudaspeed.kernels.window_attention.prepare", lambda folder, patience=0.0: False)
    monkeypatch.setattr("cudaspeed.kernels.window_attention._library", None)


def pytest_configure(config: pytest.Config) -> None:
    # As a plugin: a conftest's own hooks are not asked about folders above it.
    config.pluginmanager.register(PlainRoot())
