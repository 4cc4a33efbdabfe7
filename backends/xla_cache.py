"""JAX's own store of what XLA compiled (https://docs.jax.dev/en/latest/persistent_compilation_cache.html), while
something of ours is compiled: it is chosen for the whole process, in which others may use JAX as well."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from ..storage.ownership import make_own_folder
from .xla_library import jax_library

# All is worth keeping, however quickly it was made and however small it is.
_SETTINGS = {"jax_persistent_cache_min_compile_time_secs": 0.0, "jax_persistent_cache_min_entry_size_bytes": 0}
_FOLDER = "jax_compilation_cache_dir"
_ALONE = Lock()


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Within it, what XLA compiles is kept in `folder`, which becomes this user's alone, and read from there: what lies
    in it is code. Where somebody else has chosen a folder for the process, that one it is. Raises `NotOwnError` where
    others could write into it."""
    config, cache = jax_library().config, jax_library("jax.experimental.compilation_cache.compilation_cache")
    with _ALONE:
        if config.values[_FOLDER] is not None:
            yield
            return
        make_own_folder(folder)
        before = {name: config.values[name] for name in (_FOLDER, *_SETTINGS)}
        try:
            for name, value in {_FOLDER: str(folder), **_SETTINGS}.items():
                config.update(name, value)
            cache.reset_cache()  # it remembers for good that it had none
            yield
        finally:
            for name, value in before.items():
                config.update(name, value)
            cache.reset_cache()
