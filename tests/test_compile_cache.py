"""When a compiled forward is made, and that it never costs a picture. The compilers here are stand-ins."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cudaspeed.compile_cache import CompileCache, CompileKey

KEY = CompileKey((1, 3, 8, 8), torch.float32, "", False, "cpu")
OTHERS = [
    replace(KEY, shape=(2, 3, 8, 8)),
    replace(KEY, shape=(1, 3, 8, 16)),
    replace(KEY, weight_dtype=torch.float16),
    replace(KEY, autocast="bf16"),
    replace(KEY, channels_last=True),
    replace(KEY, device="cuda:0"),
    replace(KEY, mode="max-autotune"),
]
X = torch.zeros(1, 3, 8, 8)
LONG, NOTHING = 1e7, 0.0  # seconds of work ahead


def eager(x: Tensor) -> Tensor:
    return x + 1


class Compiler:
    """With the face of `torch.compile`. What it makes gives x + 2, so that a test sees which one ran.

    `fails_at` is "wrapping", or the number of the call of compiled code, counted over all, from which on it fails.
    """

    def __init__(self, fails_at: str | int | None = None, error: BaseException | None = None) -> None:
        self.fails_at, self.error = fails_at, error or RuntimeError("no C++ compiler found\nand a long story")
        self.wrapped, self.calls = 0, 0

    def __call__(self, function: Callable[[Tensor], Tensor], *, mode: str, dynamic: bool) -> Callable[[Tensor], Tensor]:
        assert function is eager
        assert not dynamic
        self.wrapped += 1
        if self.fails_at == "wrapping":
            raise self.error
        return self._run

    def _run(self, x: Tensor) -> Tensor:
        self.calls += 1
        if isinstance(self.fails_at, int) and self.calls >= self.fails_at:
            raise self.error
        return x + 2


def uses_compiled(cache: CompileCache, key: CompileKey, seconds_ahead: float) -> bool:
    value = float(cache.get(key, seconds_ahead)(X).mean())
    assert value in (1.0, 2.0)
    return value == 2.0


def break_even(key: CompileKey) -> float:
    """The least seconds ahead for which a fresh cache compiles."""
    low, high = NOTHING, LONG
    while high - low > 0.01:
        middle = (low + high) / 2
        low, high = (low, middle) if uses_compiled(CompileCache(eager, Compiler()), key, middle) else (middle, high)
    return high


def test_nothing_is_compiled_while_it_does_not_pay() -> None:
    compiler = Compiler()
    cache = CompileCache(eager, compiler)
    for _ in range(3):
        assert cache.get(KEY, NOTHING) is eager
        cache.note_eager(KEY, 0.5)
    assert compiler.wrapped == 0
    assert not cache.is_compiled(KEY)


@pytest.mark.parametrize(("device", "least", "most"), [("cpu", 60, 7200), ("cuda:0", 15, 1800), ("xpu", 15, 1800)])
def test_a_compile_is_repaid_by_minutes_of_work_not_by_a_picture(device: str, least: float, most: float) -> None:
    assert least < break_even(replace(KEY, device=device)) < most


def test_time_spent_counts_with_the_work_ahead_but_only_on_the_same_key() -> None:
    enough = break_even(KEY)
    cache = CompileCache(eager, Compiler())
    for other in OTHERS:
        cache.note_eager(other, LONG)
    assert not uses_compiled(cache, KEY, 0.6 * enough)
    cache.note_eager(KEY, 0.3 * enough)
    assert not uses_compiled(cache, KEY, 0.6 * enough)
    cache.note_eager(KEY, 0.3 * enough)
    assert uses_compiled(cache, KEY, 0.6 * enough)


def test_once_compiled_it_is_used_without_compiling_again_however_little_is_ahead() -> None:
    compiler = Compiler()
    cache = CompileCache(eager, compiler)
    assert uses_compiled(cache, KEY, LONG)
    assert cache.is_compiled(KEY)
    assert uses_compiled(cache, KEY, NOTHING)
    assert (compiler.wrapped, compiler.calls) == (1, 2)


def test_it_counts_as_compiled_only_once_it_has_given_a_result() -> None:
    cache = CompileCache(eager, Compiler())
    forward = cache.get(KEY, LONG)
    assert not cache.is_compiled(KEY)
    forward(X)
    assert cache.is_compiled(KEY)


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_keys_do_not_share_a_compiled_forward(other: CompileKey) -> None:
    compiler = Compiler()
    cache = CompileCache(eager, compiler)
    assert uses_compiled(cache, KEY, LONG)
    assert not cache.is_compiled(other)
    assert not uses_compiled(cache, other, NOTHING)
    assert uses_compiled(cache, other, LONG)
    assert compiler.wrapped == 2


def test_the_mode_asked_for_is_compiled() -> None:
    modes: list[str] = []
    cache = CompileCache(eager, lambda function, *, mode, dynamic: modes.append(mode) or function)
    cache.get(replace(KEY, mode="max-autotune"), LONG)
    assert modes == ["max-autotune"]


@pytest.mark.parametrize("fails_at", ["wrapping", 1, 3])
@pytest.mark.parametrize(
    "error", [RuntimeError("no C++ compiler found\nand a long story"), KeyError(), OSError(28, "full")]
)
def test_a_failing_compiler_costs_a_warning_never_a_picture(
    fails_at: str | int, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    compiler = Compiler(fails_at, error)
    cache = CompileCache(eager, compiler)
    with caplog.at_level(logging.WARNING, "cudaspeed"):
        used = [uses_compiled(cache, KEY, LONG) for _ in range(5)]
    good = fails_at - 1 if isinstance(fails_at, int) else 0
    assert used == [True] * good + [False] * (5 - good)
    assert compiler.wrapped == 1, "never tried again"
    assert compiler.calls <= good + 1
    assert not cache.is_compiled(KEY)
    (record,) = caplog.records
    assert record.name == "cudaspeed"
    assert record.levelno == logging.WARNING
    assert type(error).__name__ in record.getMessage()
    assert "\n" not in record.getMessage()


def test_a_forward_taken_before_the_failure_gives_the_eager_result_after_it(caplog: pytest.LogCaptureFixture) -> None:
    cache = CompileCache(eager, Compiler(fails_at=1))
    first, second = cache.get(KEY, LONG), cache.get(KEY, LONG)
    assert float(first(X).mean()) == 1.0
    assert float(second(X).mean()) == 1.0
    assert len(caplog.records) == 1, "one failure, one warning"


def test_a_failure_of_one_key_leaves_the_others_their_chance() -> None:
    other = OTHERS[0]
    compiler = Compiler(fails_at=1)
    cache = CompileCache(eager, compiler)
    assert not uses_compiled(cache, KEY, LONG)
    compiler.fails_at = None
    assert uses_compiled(cache, other, LONG)
    assert not uses_compiled(cache, KEY, LONG)
    assert (cache.is_compiled(KEY), cache.is_compiled(other)) == (False, True)


def test_compiled_code_that_needs_more_memory_than_eager_gives_way_to_it() -> None:
    cache = CompileCache(eager, Compiler(fails_at=1, error=torch.OutOfMemoryError("for compiled code")))
    assert not uses_compiled(cache, KEY, LONG)


def test_eager_code_that_runs_out_of_memory_says_so() -> None:
    def short(x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("tile too large")

    cache = CompileCache(short, Compiler(fails_at=1, error=torch.OutOfMemoryError("for compiled code")))
    with pytest.raises(torch.OutOfMemoryError, match="tile too large"):
        cache.get(KEY, LONG)(X)


def test_ctrl_c_while_compiling_stops() -> None:
    cache = CompileCache(eager, Compiler(fails_at=1, error=KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        cache.get(KEY, LONG)(X)
