"""Which latent file goes where: planned, and refused, before any of them is read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..api.errors import BadOptionError
from ..images.jobs import Job, Plan, Refused, refuse_inputs
from ..images.kinds import ENDINGS as PICTURES
from ..images.naming import place_of
from ..models.header import MODEL_ENDINGS

ENDING = ".latent"
"""Of the files that ComfyUI's LoadLatent lists, so of all that are written."""
_CUT_OFF = (ENDING, ".safetensors")  # endings of inputs; any other is part of a name, such as v1.2


def plan_latents(inputs: Sequence[str], output: str) -> Plan:
    """Which latent goes where; changes nothing on disk.

    A folder among `inputs` stands for the files with the ending of latents that lie in it, in the order of their names.
    `output` is a folder if it exists as one, ends with a separator, or has no file's ending: there a latent keeps its
    name. Refused, and the rest is done: what would be written over an input, or over what another becomes. Raises
    `BadOptionError` where nothing but refusals is left, for an output of another ending, and for one file as the output
    of several.
    """
    if _is_folder(output):
        return refuse_inputs([*_steps(_found(inputs), Path(output))])
    if Path(output).suffix != ENDING:
        raise BadOptionError(f"cannot write {output}; its ending must be {ENDING}, or ComfyUI does not list it")
    if len(inputs) > 1 or os.path.isdir(inputs[0]):  # noqa: PTH112
        raise BadOptionError(f"several latents cannot all become {output}; name a folder")
    return refuse_inputs([Job(Path(inputs[0]), Path(output))])


def _is_folder(output: str) -> bool:
    separators = tuple(separator for separator in (os.sep, os.altsep) if separator)
    if os.path.isdir(output) or output.endswith(separators):  # noqa: PTH112  # raises nothing, whatever its name is
        return True
    return Path(output).suffix.lower() not in (ENDING, *MODEL_ENDINGS, *PICTURES)


def _found(inputs: Sequence[str]) -> Iterator[Path | Refused]:
    """Each once."""
    seen: set[str] = set()
    for given in map(Path, inputs):
        for one in _in_folder(given) if os.path.isdir(given) else [given]:  # noqa: PTH112
            place = str(one) if isinstance(one, Refused) else os.path.realpath(one)
            if place not in seen:
                seen.add(place)
                yield one


def _in_folder(folder: Path) -> list[Path | Refused]:
    try:
        latents = sorted(path for path in folder.iterdir() if path.suffix == ENDING and path.is_file())
    except OSError as error:
        return [Refused(folder, f"cannot look into the folder {folder}: {error.strerror or error}")]
    visible = [path for path in latents if not path.name.startswith(".")]
    return [*visible] or [Refused(folder, f"the folder {folder} holds no latents ({ENDING})")]


def _steps(found: Iterator[Path | Refused], folder: Path) -> Iterator[Job | Refused]:
    """In the order of `found`."""
    writers: dict[str, Path] = {}
    for source in found:
        if isinstance(source, Refused):
            yield source
            continue
        name = source.stem if source.suffix.lower() in _CUT_OFF else source.name
        target = folder / f"{name}{ENDING}"
        writer = writers.setdefault(place_of(target), source)
        if writer == source:
            yield Job(source, target)
        else:
            yield Refused(source, f"{writer} and {source} would both become {target}; use two outputs")
