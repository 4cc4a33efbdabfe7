"""The compiling process: what it publishes, and what it does with the time after that. The compilers are stand-ins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import zoo
from copies import given
from safetensors.torch import save_file

from cudaspeed.api.model_info import Forward
from cudaspeed.backends.shapes import TileShapes
from cudaspeed.compiling import aoti, worker
from cudaspeed.compiling.request import Request
from cudaspeed.compiling.worker import main
from cudaspeed.models.execution import ExecutionMode
from cudaspeed.models.runner import ModelRunner, architecture_of
from cudaspeed.storage.artifacts import ArtifactStore
from cudaspeed.storage.fingerprint import content_of

ID = "a" * 24
USUAL, TUNED = b"compiled as usual", b"compiled with every kernel tuned"


class Compiling:
    """A request in a store, and what its worker does: the seconds that each way of compiling comes to."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store, self.scratch = ArtifactStore(folder / "store"), folder / "store" / "jobs" / "one"
        self.model = zoo.swinir()
        self.seconds = {"forward": 1.5, "usual": 1.0, "tuned": 0.5}  # "forward" is eager
        self.ways: list[dict[str, object]] = []
        self.before_tuning: Callable[[], object] = lambda: None
        monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", self._compile)
        monkeypatch.setattr(aoti, "load_package", self._load)
        monkeypatch.setattr(
            worker, "seconds_of_forward", lambda forward, x: self.seconds[getattr(forward, "__name__", "forward")]
        )
        monkeypatch.setattr(aoti.Compiler, "_program", lambda self: None)  # takes seconds
        monkeypatch.setattr(worker, "trust_the_processor", lambda: None)

    def run(self, limit: float = 60.0, eager: ExecutionMode | None = None) -> bytes | None:
        """What the store has after it."""
        mode = ExecutionMode("fp32", autocast=False, channels_last=False)
        assert self.store.claim(ID, {"model": "SwinIR"})
        self.scratch.mkdir(parents=True)
        weights = self.scratch / "weights.safetensors"
        save_file({name: tensor.clone() for name, tensor in self.model.model.state_dict().items()}, weights)
        self._runner = ModelRunner(self.model, mode)
        request = Request(
            ID, str(self.store.folder), str(weights), content_of(self.model.model), architecture_of(self.model),
            mode, eager or mode, TileShapes.one(24, 32), "cpu", "here", limit,
        )  # fmt: skip
        (self.scratch / "request.json").write_text(request.to_json())
        main(str(self.scratch / "request.json"))
        return given(self.store, ID)

    def _compile(self, program: object, *, package_path: str, inductor_configs: dict[str, object]) -> None:
        self.ways.append(inductor_configs)
        tuned = bool(inductor_configs.get("max_autotune"))
        if tuned:
            self.before_tuning()
        Path(package_path).write_bytes(TUNED if tuned else USUAL)

    def _load(self, path: Path, device: torch.device) -> Forward:
        def usual(x: torch.Tensor) -> torch.Tensor:
            return self._runner.forward(x)

        def tuned(x: torch.Tensor) -> torch.Tensor:
            return self._runner.forward(x)

        return tuned if path.read_bytes() == TUNED else usual


@pytest.fixture
def compiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiling:
    return Compiling(tmp_path, monkeypatch)


@pytest.mark.parametrize(("seconds", "kept"), [(0.5, TUNED), (0.94, TUNED), (0.97, USUAL), (1.5, USUAL)])
def test_what_is_tuned_is_kept_where_it_is_clearly_faster(seconds: float, kept: bytes, compiling: Compiling) -> None:
    compiling.seconds["tuned"] = seconds
    assert compiling.run() == kept
    usual, tuned = compiling.ways
    assert usual["freezing"]
    assert tuned == {**usual, "max_autotune": True}, "and nothing else is another"


def test_how_fast_it_is_beside_eager_is_known_before_it_is_used(compiling: Compiling) -> None:
    pixels = 24 * 32 / 1e6
    compiling.run()
    assert compiling.store.get(ID).eager_rate == pytest.approx(1.5 / pixels)
    assert compiling.store.get(ID).compiled_rate == pytest.approx(0.5 / pixels)


def test_on_a_busy_machine_nothing_is_said(compiling: Compiling, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "taking_turns", lambda works: [[work(), 9.0] for work in works])
    assert compiling.run() == USUAL
    assert compiling.store.get(ID).compiled_rate == 0


def test_what_is_published_can_be_used_while_tuning_goes_on(compiling: Compiling) -> None:
    seen = []
    compiling.before_tuning = lambda: seen.append(given(compiling.store, ID))
    assert compiling.run() == TUNED
    assert seen == [USUAL]


def test_it_is_compared_with_the_kernels_that_it_would_replace(
    compiling: Compiling, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []
    real = worker.ModelRunner
    monkeypatch.setattr(worker, "ModelRunner", lambda d, mode: compared.append(mode) or real(d, mode))
    eager = ExecutionMode("fp32", autocast=False, channels_last=True, kernels="attention")
    compiling.run(eager=eager)
    assert eager in compared


@pytest.mark.parametrize("error", [RuntimeError("no such kernel"), MemoryError(), OSError(28, "no space left")])
def test_tuning_that_fails_costs_nothing(error: Exception, compiling: Compiling) -> None:
    def fail() -> None:
        raise error

    compiling.before_tuning = fail
    assert compiling.run() == USUAL
    assert compiling.store.get(ID).state == "ready"


def test_a_wrong_result_of_tuning_is_not_kept(compiling: Compiling, monkeypatch: pytest.MonkeyPatch) -> None:
    right = aoti.compare
    calls = []

    def disagree(*outputs: object) -> str | None:
        calls.append(outputs)
        return "it is veiled" if len(calls) == 2 else right(*outputs)

    monkeypatch.setattr(aoti, "compare", disagree)
    assert compiling.run() == USUAL


def test_what_was_found_to_be_wrong_meanwhile_is_not_brought_back(compiling: Compiling) -> None:
    compiling.before_tuning = lambda: compiling.store.fail(ID, "its result was refused", "model", "here")
    assert compiling.run() is None
    assert compiling.store.get(ID).reason == "its result was refused"
