"""`cudaspeed models`: which models there are."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from ..api.errors import BadModelError, first_line
from ..models.loader import find_models, load_model, model_folders
from .console import Console
from .exit_codes import DONE

logger = logging.getLogger("cudaspeed")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """List the bundled and the found models. One that cannot be used is a line of the list, which is done all the
    same."""
    found = find_models()
    if not found:
        logger.warning("no models in %s", ", ".join(map(str, model_folders())))
    for name, path in found.items():
        record = _describe(name, path)
        console.tell(record, _line(record))
    return DONE


def _describe(name: str, path: Path) -> dict[str, Any]:
    record: dict[str, Any] = {"name": name, "path": str(path)}
    try:
        record["bytes"] = path.stat().st_size
        model = load_model(path)
    except (BadModelError, OSError) as error:  # OSError: it was deleted meanwhile
        return {**record, "error": str(error)}
    except Exception as error:  # whatever a file does to its reader must not cost the others
        logger.debug("%s", path, exc_info=True)
        return {**record, "error": f"{path}: cannot be loaded: {type(error).__name__}: {first_line(error)}"}
    supported = {"fp32": True, "fp16": model.supports_half, "bf16": model.supports_bfloat16}
    return {
        **record,
        "scale": model.scale,
        "architecture": model.architecture.name,
        "input_channels": model.input_channels,
        "output_channels": model.output_channels,
        "precisions": [precision for precision, works in supported.items() if works],
    }


def _line(record: dict[str, Any]) -> str:
    if "error" in record:
        return f"{record['name']:<36} cannot be used: {record['error']}"
    channels = f"{record['input_channels']}->{record['output_channels']}"
    return (
        f"{record['name']:<36} x{record['scale']}  {record['architecture']:<20} channels {channels}  "
        f"{' '.join(record['precisions']):<14}  {record['bytes'] / 1e6:.1f} MB  {record['path']}"
    )
