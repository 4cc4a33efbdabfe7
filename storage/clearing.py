"""All that is kept on disk, deleted: what is compiled, and what is known of models and of their files."""

from __future__ import annotations

from pathlib import Path

from .artifacts import ArtifactStore
from .loaded import LoadedStore
from .profiles import ProfileStore, profiles_folder


def clear_all(folder: Path) -> int:
    """Delete it in the `folder` of compiled models, and return the bytes of these that were freed. What a living
    process compiles stays. Raises what `ArtifactStore.clear` does, and has then deleted nothing."""
    freed = ArtifactStore(folder).clear()
    LoadedStore(folder).clear()
    ProfileStore(profiles_folder(folder)).clear()
    return freed
