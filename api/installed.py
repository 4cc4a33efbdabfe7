"""What is installed beside us."""

from __future__ import annotations


def installed_version(distribution: str) -> str:
    """Its version, by the name that pip has for it, "" where it is not there. Nothing of it is imported."""
    from importlib.metadata import PackageNotFoundError, version  # here because it takes its time, and few ask

    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
