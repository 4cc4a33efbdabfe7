"""Programs that came with a model (`cudaspeed export`), put into the store in place of what would be compiled."""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack

from ..api.errors import first_line
from ..backends.errors import CompileError
from ..backends.offer import weights_in
from ..backends.xla_file import XlaPrograms, as_array
from ..backends.xla_foreign import check_programs
from ..models.exported import ExportedModel, programs_in
from ..storage.artifacts import ArtifactStore
from ..storage.scratch import scratch_folder
from .model_entries import ModelEntries, Subject

_FILE = "program"


def take_exported(store: ArtifactStore, known: ModelEntries, subject: Subject) -> str:
    """Put the program that came with the model into the store, as what is compiled for its tiles, if there is one that
    is not there yet. Why it cannot be used, in a sentence; "" where it can, or there is none.

    Its first result is compared with the eager forward's, as that of all that is compiled.
    """
    exported, shapes = known.exported, known.exported_shapes
    if exported is None or shapes is None:
        return ""
    entry = store.get(known.id_of(shapes))
    if known.has_failed(entry) or (entry is not None and entry.state in ("compiling", "ready")):
        return ""
    try:
        _publish(_read(exported, known, subject), store, known)
    except (ValueError, CompileError) as error:
        return f"{exported.path}: {error}"
    except OSError as error:  # of the file, or of the store
        return f"{exported.path}: its program cannot be used: {first_line(error)}"
    return ""


def _read(exported: ExportedModel, known: ModelEntries, subject: Subject) -> XlaPrograms:
    module = subject.module()
    if module is None:
        raise ValueError("its model is gone")
    precision = weights_in(known.engine, known.mode.precision)
    found = programs_in(exported, module, precision)
    weights = {name: as_array(tensor, narrow=precision == "bf16") for name, tensor in found.tensors.items()}
    programs = XlaPrograms(exported.info.jax, exported.info.platforms, found.programs, weights)
    check_programs(programs, subject.info, exported.info.tile, known.engine)
    return programs


def _publish(programs: XlaPrograms, store: ArtifactStore, known: ModelEntries) -> None:
    """Raises `OSError` where it cannot be written."""
    assert known.exported_shapes is not None
    began, name = time.perf_counter(), known.id_of(known.exported_shapes)
    if not store.claim(name, known.what_of(known.exported_shapes)):  # another process is quicker
        return
    with ExitStack() as undo:
        undo.callback(store.release, name)
        scratch = scratch_folder(store.folder)
        undo.callback(shutil.rmtree, scratch, ignore_errors=True)
        programs.write(scratch / _FILE)
        store.publish(name, scratch / _FILE, time.perf_counter() - began, known.engine)
    store.searched(name, 0.0, undecided=False)
