"""What a store gives out."""

from __future__ import annotations

from cudaspeed.storage.artifacts import ArtifactStore


def given(store: ArtifactStore, entry_id: str) -> bytes | None:
    """The bytes that would be loaded."""
    copy = store.copy_of(entry_id)
    if copy is None:
        return None
    with copy:
        return copy.path.read_bytes()
