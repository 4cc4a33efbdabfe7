"""Clocks for tests: what this machine happens to be fast at decides nothing."""

from __future__ import annotations

from cudaspeed.pipeline.session_cache import SessionCache


def still() -> float:
    """A clock that stands still: everything takes no time at all, so nothing is faster than anything else."""
    return 0.0


def new_sessions() -> SessionCache:
    """What a new process knows of models, where nothing is measured."""
    return SessionCache(clock=still)
