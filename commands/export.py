"""`cudaspeed export`: a model as a file of StableHLO and weights."""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

from ..api.errors import BadModelError, BadOptionError
from ..backends.packages import XLA
from ..images.jobs import why_unwritable
from ..images.whole import make_folder, write_whole
from ..models.formats.exported_file import ENDING
from ..models.loader import check_file, load_model
from ..storage.engines_own import folder_of_xla
from ..storage.files import delete
from ..storage.location import compiled_folder
from ..storage.scratch import scratch_folder
from .console import Console
from .exit_codes import DONE
from .options import parse_size

_PLATFORMS = ("cpu", "cuda", "tpu")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Export one model, and tell what is in the file. A file that is there is replaced."""
    tile, platforms = parse_size(arguments.tile, "tile"), _platforms(arguments.platform)
    target = _target(arguments.output)
    check_file(arguments.model)
    if XLA.missing():
        raise BadOptionError(XLA.missing())
    began = time.perf_counter()

    from ..backends.errors import CompileError, TraceError  # with torch, now that nothing is wrong with what was asked
    from ..compiling.export import check_export, export_model

    store, model = compiled_folder(), load_model(arguments.model)
    scratch = scratch_folder(store)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what JAX, torchax and torch have to say of each other
            made = export_model(model, tile, platforms, folder_of_xla(store))
            check_export(made, model, scratch)
    except (CompileError, TraceError) as error:
        raise BadModelError(f"{arguments.model}: cannot be exported: {error}") from error
    finally:
        delete(scratch)
    make_folder(target)
    write_whole(target, made.write)
    seconds, size = time.perf_counter() - began, target.stat().st_size
    program = made.info.programs["fp32"][1]
    record = {
        "output": str(target),
        "bytes": size,
        "program_bytes": program,
        "tile": [tile[1], tile[0]],
        "platforms": platforms,
        "jax": made.info.jax,
        "folded": made.folded,
        "checked": made.checked,
        "seconds": seconds,
    }
    told = f"{target}: tiles of {tile[1]}x{tile[0]} on {', '.join(platforms)}, {size / 1e6:.1f} MB"
    told += f", of which {program / 1e3:.0f} KB are the program for one tile ({seconds:.1f} s)"
    if made.folded:
        told += f"; {made.folded} weights are in it twice, since the program takes them folded together"
    if not made.checked:
        told += "; its result was not compared with torch's, which takes cpu among the platforms"
    console.tell(record, told)
    return DONE


def _platforms(text: str) -> tuple[str, ...]:
    """Raises `BadOptionError`."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if not set(names) <= {*_PLATFORMS}:
        raise BadOptionError(f"platform is {text!r:.200}; give {', '.join(_PLATFORMS)}, or several with commas between")
    return names


def _target(output: str) -> Path:
    """Raises `BadOptionError` for what would not be a file that `--model` takes."""
    target = Path(output)
    if target.suffix.lower() != ENDING:
        name = (target / "model" if target.is_dir() else target).with_suffix(ENDING)
        raise BadOptionError(f"output is {output!r:.200}, and models are exported to {ENDING}; give {name}")
    if target.is_dir():
        raise BadOptionError(f"output is {output!r:.200}, which is a folder; name a file in it")
    why = why_unwritable(target.parent)
    if why:
        raise BadOptionError(f"output is {output!r:.200}: {why}")
    return target
