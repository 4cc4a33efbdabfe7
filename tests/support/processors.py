"""Processors that this machine's is not."""

from __future__ import annotations

import pytest

from cudaspeed.models import precision
from cudaspeed.pipeline.modes import ModeChooser


def fast_at_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that computes bfloat16 natively, in which all layers are the fastest."""
    monkeypatch.setattr(precision, "fast_precisions", lambda device: ("bf16",))
    monkeypatch.setattr(ModeChooser, "_fastest_first", lambda chooser, ways: ways)
