"""`cudaspeed models`: which models there are, by what their files say of themselves or said when they were loaded."""

from __future__ import annotations

import argparse
import hashlib
import logging
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeGuard

from ..api.errors import BadModelError, first_line
from ..api.installed import installed_version
from ..models.formats.errors import DamagedError, RefusedError
from ..models.header import Header, opened_model
from ..models.labels import told_by
from ..models.layouts import ModelFacts
from ..models.loader import find_models, load_model, model_folders
from ..storage.loaded import LoadedStore, Told
from ..storage.location import compiled_folder
from .console import Console
from .exit_codes import DONE

logger = logging.getLogger("cudaspeed")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """List the bundled and the found models. One that cannot be used is a line of the list, which is done all the
    same."""
    found = find_models()
    if not found:
        logger.warning("no models in %s", ", ".join(map(str, model_folders())))
    known = LoadedStore(compiled_folder())
    loaded: dict[Path, tuple[str, Told]] = {}
    try:
        for name, path in found.items():
            record = _describe(name, path, known, loaded)
            console.tell(record, _line(record))
    finally:
        known.keep(loaded)
    return DONE


def _describe(name: str, path: Path, known: LoadedStore, loaded: dict[Path, tuple[str, Told]]) -> dict[str, Any]:
    """The record of a model; what had to be loaded is added to `loaded`."""
    record: dict[str, Any] = {"name": name, "path": str(path)}
    try:
        status = path.stat()
        record["bytes"] = status.st_size
        with opened_model(path) as header:
            facts = told_by(header)
            if facts and header.complete:
                return record | asdict(facts)
            place, stamp = path.absolute(), f"{status.st_size} {status.st_mtime_ns} {_digest_of(header)} {_spandrel()}"
            told = known.get(place, stamp)
            if _makes_sense(told):
                return record | told
            if facts and header.stored_bytes <= status.st_size:
                header.check_content()
                told = asdict(facts)
            else:
                told = _load(path)
        loaded[place] = stamp, told
        return record | told
    except (BadModelError, OSError) as error:  # OSError: it was deleted meanwhile
        return {**record, "error": str(error)}
    except Exception as error:  # whatever a file does to its reader must not cost the others
        logger.debug("%s", path, exc_info=True)
        return {**record, "error": f"{path}: cannot be loaded: {type(error).__name__}: {first_line(error)}"}


def _load(path: Path) -> Told:
    """What the loaded model tells, or why it cannot be used, for good. Raises what may pass: a lack of memory, say."""
    try:
        model = load_model(path)
    except BadModelError as error:
        if isinstance(error.__cause__, OSError | RefusedError | DamagedError):  # the file may be mended
            raise
        return {"error": str(error)}
    supported = {"fp32": True, "fp16": model.supports_half, "bf16": model.supports_bfloat16}
    precisions = tuple(precision for precision, works in supported.items() if works)
    return asdict(
        ModelFacts(model.scale, model.architecture.name, model.input_channels, model.output_channels, precisions)
    )


def _makes_sense(told: Told | None) -> TypeGuard[Told]:
    """Whether it is what `_load` tells: the file that it was kept in may have been edited."""
    if told is None or told.keys() == {"error"}:
        return told is not None and type(told["error"]) is str
    numbers, precisions = ("scale", "input_channels", "output_channels"), told.get("precisions")
    return (
        told.keys() == {field.name for field in fields(ModelFacts)}
        and type(told["architecture"]) is str
        and all(type(told[name]) is int for name in numbers)
        and isinstance(precisions, list | tuple)
        and all(type(precision) is str for precision in precisions)
    )


def _digest_of(header: Header) -> str:
    """Of all that a header tells of its tensors."""
    lines = (f"{name} {tensor.storage.dtype} {tensor.shape}\n" for name, tensor in sorted(header.tensors.items()))
    return hashlib.sha256("".join((*lines, *header.flags)).encode("utf-8", "surrogateescape")).hexdigest()[:24]


def _spandrel() -> str:
    """Its version: a newer one may know what an older one did not."""
    return f"spandrel {installed_version('spandrel')}".rstrip()


def _line(record: dict[str, Any]) -> str:
    if "error" in record:
        return f"{record['name']:<36} cannot be used: {record['error']}"
    channels = f"{record['input_channels']}->{record['output_channels']}"
    return (
        f"{record['name']:<36} x{record['scale']}  {record['architecture']:<20} channels {channels}  "
        f"{' '.join(record['precisions']):<14}  {record['bytes'] / 1e6:.1f} MB  {record['path']}"
    )
