"""The compiling process: what it publishes, and what it does with the time after that. The compilers are stand-ins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import zoo
from copies import given
from engines import StandIn
from safetensors.torch import save_file

from cudaspeed.api.model_info import Forward
from cudaspeed.backends import offer
from cudaspeed.backends.errors import CompileError
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
        self.failure: Exception | None = None
        self.published: list[tuple[str, bytes | None]] = []  # by which engine, what
        self.engines(monkeypatch)
        for way in ("publish", "improve"):
            monkeypatch.setattr(worker.ArtifactStore, way, self._noting(getattr(ArtifactStore, way)))
        monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", self._compile)
        monkeypatch.setattr(aoti, "load_package", self._load)
        monkeypatch.setattr(worker, "load_package", self._load)
        monkeypatch.setattr(
            worker, "seconds_of_forward", lambda forward, x: self.seconds[getattr(forward, "__name__", "forward")]
        )
        monkeypatch.setattr(aoti.Compiler, "_program", lambda self: None)  # takes seconds
        monkeypatch.setattr(worker, "trust_the_processor", lambda: None)

    def engines(self, monkeypatch: pytest.MonkeyPatch, *engines: StandIn) -> None:
        """These are installed beside torch's own."""
        monkeypatch.setattr(offer, "ENGINES", engines)

    def run(
        self, limit: float = 60.0, eager: ExecutionMode | None = None, again: bool = False, engine: str = ""
    ) -> bytes | None:
        """What the store has after it."""
        mode = ExecutionMode("fp32", autocast=False, channels_last=False)
        assert self.store.search(ID) if again else self.store.claim(ID, {"model": "SwinIR"})
        self.scratch.mkdir(parents=True, exist_ok=True)
        weights = self.scratch / "weights.safetensors"
        save_file({name: tensor.clone() for name, tensor in self.model.model.state_dict().items()}, weights)
        self._runner = ModelRunner(self.model, mode)
        request = Request(
            ID, str(self.store.folder), str(weights), content_of(self.model.model), architecture_of(self.model),
            mode, eager or mode, TileShapes.one(24, 32), "cpu", "here", limit, again, engine,
        )  # fmt: skip
        (self.scratch / "request.json").write_text(request.to_json())
        main(str(self.scratch / "request.json"))
        return given(self.store, ID)

    def _noting(self, way: Callable[..., object]) -> Callable[..., object]:
        def published(store: ArtifactStore, entry_id: str, *told: object) -> object:
            said = way(store, entry_id, *told)
            self.published.append((store.get(entry_id).engine, given(store, entry_id)))
            return said

        return published

    def _compile(self, program: object, *, package_path: str, inductor_configs: dict[str, object]) -> None:
        if self.failure:
            raise self.failure
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


# --- other engines beside torch's own --------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "kept"), [(0.4, "stand-in"), (0.94, "stand-in"), (0.97, ""), (1.5, "")])
def test_another_engine_is_taken_where_it_is_clearly_faster(
    seconds: float, kept: str, compiling: Compiling, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiling.seconds |= {"stand-in": seconds, "tuned": 2.0}
    compiling.engines(monkeypatch, StandIn())
    assert compiling.run() == (b"stand-in" if kept else USUAL)
    assert compiling.store.get(ID).engine == kept
    assert compiling.published[0] == ("", USUAL), "nobody waits for what is only tried"
    rate = compiling.store.get(ID).compiled_rate * 24 * 32 / 1e6
    assert rate == pytest.approx(seconds if kept else 1.0)


def test_what_torch_tunes_has_to_be_faster_than_the_best_so_far(
    compiling: Compiling, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiling.engines(monkeypatch, StandIn("first"), StandIn("second"), StandIn("third"))
    compiling.seconds |= {"first": 0.7, "second": 0.8, "third": 0.5, "tuned": 0.6}
    compiling.run()
    assert [engine for engine, _ in compiling.published] == ["", "first", "third"]
    compiling.store.clear()
    compiling.seconds["tuned"] = 0.4
    assert compiling.run() == TUNED
    assert compiling.store.get(ID).engine == ""


def test_an_engine_gets_the_model_as_it_is_and_the_precision_to_compute_in(
    compiling: Compiling, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = StandIn()
    compiling.engines(monkeypatch, engine)
    compiling.seconds["stand-in"] = 0.4
    compiling.run()
    (work,) = engine.works
    assert (work.shapes, work.precision, work.device.type) == (TileShapes.one(24, 32), "fp32", "cpu")
    assert {parameter.dtype for parameter in work.module.parameters()} == {torch.float32}
    assert work.example.shape == (1, 3, 24, 32)
    assert work.scratch == compiling.scratch, "what it may use again lies beside it, and stays"


@pytest.mark.parametrize("error", [CompileError("it lacks aten::roll"), RuntimeError("no\nsuch"), MemoryError()])
def test_an_engine_that_fails_costs_a_line_in_the_log(
    error: Exception, compiling: Compiling, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine, other = StandIn("failing"), StandIn("other")
    engine.fails = error
    compiling.engines(monkeypatch, engine, other)
    compiling.seconds["other"] = 0.4
    assert compiling.run() == b"other"
    (line,) = [record.message for record in caplog.records if "failing" in record.message]
    assert str(error).partition("\n")[0] in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "wrong",
    [
        lambda y: y + 0.01,
        lambda y: y[..., 1:],
        lambda y: y * float("nan"),
        lambda y: y.flip(3),
        lambda y: y[:, [1, 0, 2]],
    ],
)
def test_an_engine_that_computes_something_else_is_left_out(
    wrong: Callable[[torch.Tensor], torch.Tensor], compiling: Compiling, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    engine = StandIn()
    engine.wrong = wrong
    compiling.engines(monkeypatch, engine)
    compiling.seconds |= {"stand-in": 0.1, "tuned": 2.0}
    assert compiling.run() == USUAL
    assert "stand-in is left out: its result is wrong" in caplog.text


@pytest.mark.parametrize(("engine", "tuned", "kept"), [(0.4, 0.7, b"stand-in"), (0.7, 0.4, TUNED), (2.0, 2.0, USUAL)])
def test_what_a_busy_machine_left_undecided_is_decided_when_it_is_looked_at_again(
    engine: float, tuned: float, kept: bytes, compiling: Compiling, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiling.seconds |= {"stand-in": engine, "tuned": tuned}
    compiling.engines(monkeypatch, StandIn())
    with monkeypatch.context() as busy:
        busy.setattr(worker, "taking_turns", lambda works: [[work(), 9.0] for work in works])
        assert compiling.run() == USUAL
    entry = compiling.store.get(ID)
    assert entry.undecided
    assert entry.search_seconds > 0
    usual = len(compiling.ways)
    assert compiling.run(again=True) == kept
    assert all(way.get("max_autotune") for way in compiling.ways[usual:]), "what is there is not compiled again"
    entry = compiling.store.get(ID)
    assert (entry.state, entry.undecided) == ("ready", False)
    assert entry.compiled_rate * 24 * 32 / 1e6 == pytest.approx(min(engine, tuned, 1.0))


def test_looking_again_costs_nothing_of_what_is_there_where_it_fails(
    compiling: Compiling, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as busy:
        busy.setattr(worker, "taking_turns", lambda works: [[work(), 9.0] for work in works])
        compiling.run()
    compiling.failure = RuntimeError("No working C++ compiler found")
    assert compiling.run(again=True) == USUAL
    entry = compiling.store.get(ID)
    assert (entry.state, entry.undecided) == ("ready", False), "that is no busy machine"


def test_the_engine_that_is_asked_for_compiles_it_and_no_other_whatever_is_faster(
    compiling: Compiling, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, other = StandIn("asked"), StandIn("other")
    compiling.engines(monkeypatch, other, asked)
    compiling.seconds |= {"asked": 9.0, "other": 0.1}
    assert compiling.run(engine="asked") == b"asked"
    assert not compiling.ways and not other.works, "neither is torch's compiler asked"
    entry = compiling.store.get(ID)
    assert (entry.engine, entry.undecided, entry.compiled_rate) == ("asked", False, 0)


@pytest.mark.parametrize("missing", ["", "it is not installed: pip install it"])
def test_why_the_engine_that_is_asked_for_cannot_is_told(
    missing: str, compiling: Compiling, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = StandIn("asked", missing)
    engine.fails = CompileError("it lacks aten::roll")
    compiling.engines(monkeypatch, engine)
    assert compiling.run(engine="asked") is None
    assert compiling.store.get(ID).reason == (missing or "it lacks aten::roll")


def test_an_engine_that_is_not_there_is_not_asked(compiling: Compiling, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = StandIn(missing="it is not installed: pip install it")
    compiling.engines(monkeypatch, engine)
    assert compiling.run() == TUNED
    assert not engine.works


def test_where_torch_cannot_compile_another_engine_does(compiling: Compiling, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as on a machine without a C++ compiler."""
    compiling.failure = RuntimeError("No working C++ compiler found")
    compiling.engines(monkeypatch, StandIn("first"), StandIn("second"))
    compiling.seconds |= {"first": 0.7, "second": 0.4}
    assert compiling.run() == b"second"
    assert compiling.published == [("first", b"first"), ("second", b"second")]
    entry = compiling.store.get(ID)
    assert (entry.state, entry.engine) == ("ready", "second")


def test_where_none_can_compile_it_torchs_reason_is_told(compiling: Compiling, monkeypatch: pytest.MonkeyPatch) -> None:
    compiling.failure = RuntimeError("No working C++ compiler found")
    engine = StandIn()
    engine.fails = CompileError("it lacks aten::roll")
    for engines, scope in [((), "environment"), ((engine,), "model")]:  # the engine may do better with others
        compiling.engines(monkeypatch, *engines)
        assert compiling.run() is None
        assert "install one (Linux: g++" in compiling.store.get(ID).reason
        assert compiling.store.get(ID).scope == scope
        compiling.store.clear()
