"""Processors that this machine's is not."""

from __future__ import annotations

import pytest

from cudaspeed.kernels import winograd
from cudaspeed.models import precision
from cudaspeed.pipeline.modes import ModeChooser


def fast_at_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that computes bfloat16 natively, in which all layers are the fastest by torch's operations."""
    monkeypatch.setattr(precision, "fast_precisions", lambda device: ("bf16",))
    monkeypatch.setattr(winograd, "multiplies_bfloat16", lambda: False)
    monkeypatch.setattr(ModeChooser, "_fastest_first", lambda chooser, ways, pixels: ways)


def fast_at_bf16_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, in which our kernels are the fastest, by products of bfloat16s."""
    fast_at_bf16(monkeypatch)
    monkeypatch.setattr(winograd, "multiplies_bfloat16", lambda: True)
