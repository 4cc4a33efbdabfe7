"""Busy and hidden shares, from a profiler's trace."""

from __future__ import annotations

from typing import Any

import pytest

from bench.streams import summary


def event(category: str, name: str, stream: int, start: float, duration: float) -> dict[str, Any]:
    return {"cat": category, "name": name, "ts": start, "dur": duration, "args": {"stream": stream}}


def test_busy_shares_of_a_trace() -> None:
    trace = [
        {"cat": "cpu_op", "name": "aten::conv2d", "ts": 0, "dur": 999},
        event("gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", 13, 100, 20),
        event("kernel", "conv", 7, 110, 50),
        event("kernel", "conv", 7, 160, 20),
        event("kernel", "blend", 14, 170, 20),
        event("gpu_memcpy", "Memcpy DtoD (Device -> Device)", 14, 190, 5),
        event("gpu_memcpy", "Memcpy DtoH (Device -> Pinned)", 14, 180, 20),
    ]
    told = summary(trace)
    assert told["milliseconds"] == pytest.approx(0.1)
    assert told["busy"] == pytest.approx({"kernels": 0.85, "copies in": 0.2, "copies out": 0.2})
    assert told["hidden"] == pytest.approx({"copies in": 0.5, "copies out": 0.75})
    assert told["streams"]["stream 7: kernels"] == pytest.approx(0.7)
    assert "failure" in summary([])
