"""Which picture file goes where: planned, and refused, before any of them is read or written."""

from __future__ import annotations

import mimetypes
import os
import tempfile
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from ..api.errors import BadOptionError
from .folders import Identity, identity, look_into
from .kinds import ENDINGS, WRITABLE_ENDINGS
from .naming import FolderOptions, Source, is_in_format, place_of, targets_of, writers_of


@dataclass(frozen=True)
class Job:
    """One picture to upscale from `source` into `target`."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Refused:
    """A picture, or a folder, of which nothing comes, and why."""

    source: Path
    reason: str


@dataclass(frozen=True)
class PassedOver:
    """What else lies in a folder, by its path in there; a subfolder's ends with a separator."""

    folder: Path
    names: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What is to be done, in the order of the inputs, and what in their folders is not looked at."""

    steps: tuple[Job | Refused, ...]
    passed_over: tuple[PassedOver, ...] = ()

    @property
    def jobs(self) -> tuple[Job, ...]:
        """What is not refused."""
        return tuple(step for step in self.steps if isinstance(step, Job))


def plan_jobs(inputs: Sequence[str], output: str, options: FolderOptions = FolderOptions()) -> Plan:  # noqa: B008
    """Which picture goes where; changes nothing on disk.

    A folder among `inputs` stands for its pictures (`look_into`). `output` is a folder if it exists as one, ends with a
    separator, or has no picture's ending; `targets_of` says what they are called in there. An input that does not exist
    is kept: it fails when its turn comes. One that is given twice is done once. Refused, and the rest is done: what
    would be written over an input, or over what another becomes; a folder that holds no pictures or cannot be looked
    into. Raises `BadOptionError` where nothing but refusals is left, for an output whose format cannot be written or is
    not the one asked for, and for one file as the output of several.
    """
    try:
        if _is_folder(output):
            plan = _plan_folder(inputs, Path(output), options)
        else:
            _check_file(inputs, output, options)
            plan = Plan((Job(Path(inputs[0]), Path(output)),))
        return _with_work(_without_overwriting(plan, options))
    except FileNotFoundError as error:  # what does not exist is kept, so this is the working folder itself
        raise BadOptionError(
            "the working folder was deleted, so relative paths lead nowhere; use absolute ones"
        ) from error
    except OSError as error:  # a path that no file system takes
        raise BadOptionError(f"{error.filename or output}: {error.strerror or error}; name another path") from error


def refuse_unwritable(plan: Plan) -> Plan:
    """The plan, with what goes into folders that cannot be written refused before hours of work; nothing stays on disk.

    Raises `BadOptionError` where nothing but refusals is left."""
    flaws = {folder: why_unwritable(folder) for folder in {job.target.parent for job in plan.jobs}}
    steps = [
        Refused(step.source, flaw) if isinstance(step, Job) and (flaw := flaws[step.target.parent]) else step
        for step in plan.steps
    ]
    return _with_work(replace(plan, steps=tuple(steps)))


def refuse_inputs(steps: Sequence[Job | Refused]) -> Plan:
    """The steps as a plan, with what would be written over an input refused. Raises `BadOptionError` where nothing but
    refusals is left."""
    known = {identity(step.source) for step in steps if isinstance(step, Job)} - {None}
    return _with_work(Plan(tuple(_unless_an_input(step, known) for step in steps)))


def _unless_an_input(step: Job | Refused, known: Set[Identity | None]) -> Job | Refused:
    if isinstance(step, Job) and identity(step.target) in known:
        return Refused(step.source, _is_an_input(step.target))
    return step


def _is_an_input(target: Path) -> str:
    return f"{target} is an input; choose another output, inputs are never overwritten"


def why_unwritable(folder: Path) -> str:
    """Why no file can be written into `folder`, which need not exist; "" if one can. Nothing stays on disk."""
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        with tempfile.TemporaryFile(dir=there):
            return ""
    except OSError as error:
        return f"cannot write into {folder}: {error.strerror or error}"


def _is_folder(output: str) -> bool:
    separators = tuple(separator for separator in (os.sep, os.altsep) if separator)
    if Path(output).is_dir() or output.endswith(separators):
        return True
    kind = mimetypes.guess_type(output)[0] or ""  # so that out.jp2 is a picture we cannot write, and not a folder
    return Path(output).suffix.lower() not in ENDINGS and not kind.startswith("image/")


def _check_file(inputs: Sequence[str], output: str, options: FolderOptions) -> None:
    """Raise `BadOptionError` unless the file `output` can be what comes of `inputs`."""
    if Path(output).suffix.lower() not in WRITABLE_ENDINGS:
        raise BadOptionError(f"cannot write {output}; its ending must be one of {', '.join(WRITABLE_ENDINGS)}")
    if len(inputs) > 1 or Path(inputs[0]).is_dir():
        raise BadOptionError(f"several pictures cannot all become {output}; name a folder")
    if options.format and not is_in_format(Path(output), options.format):
        raise BadOptionError(f"{output} does not end as format {options.format} does; leave one out, or name a folder")
    if options.suffix:
        raise BadOptionError(f"{output} is a whole name, without room for suffix {options.suffix!r}; name a folder")


def _plan_folder(inputs: Sequence[str], output: Path, options: FolderOptions) -> Plan:
    found: list[Source | Refused] = []
    passed_over: list[PassedOver] = []
    for given in map(Path, inputs):
        if not given.is_dir():
            found.append(Source(given))
            continue
        inside = look_into(given, options.recursive, output)
        found += [Source(path, path.parent.relative_to(given)) for path in inside.pictures]
        found += [Refused(path, reason) for path, reason in inside.failures]
        if not inside.pictures and not inside.failures:
            found.append(Refused(given, _no_pictures(given, inside.passed_over, options)))
        if inside.passed_over:
            passed_over.append(PassedOver(given, inside.passed_over))
    return Plan(tuple(_steps(found, output, options)), tuple(passed_over))


def _no_pictures(folder: Path, others: Sequence[str], options: FolderOptions) -> str:
    subfolders = not options.recursive and any(name.endswith(os.sep) for name in others)
    remedy = "; --recursive looks into its subfolders" if subfolders else ""
    return f"the folder {folder} holds no pictures ({', '.join(ENDINGS)}){remedy}"


def _steps(found: Sequence[Source | Refused], output: Path, options: FolderOptions) -> Iterator[Job | Refused]:
    """In the order of `found`."""
    once = list(_each_once(found))
    targets = targets_of([one for one in once if isinstance(one, Source)], output, options)
    writers = writers_of(targets)
    for one in once:
        if isinstance(one, Refused):
            yield one
            continue
        target = targets[one]
        writer = writers[place_of(target)]
        both = f"{writer.path} and {one.path} would both become {target}; use two outputs"
        yield Job(one.path, target) if writer == one else Refused(one.path, both)


def _each_once(found: Sequence[Source | Refused]) -> Iterator[Source | Refused]:
    """Without what is the same file as one before, and would be called the same."""
    seen: set[tuple[str, str, Path]] = set()
    for one in found:
        if isinstance(one, Source):
            file = (os.path.realpath(one.path), one.path.name, one.below)
            if file in seen:
                continue
            seen.add(file)
        yield one


def _without_overwriting(plan: Plan, options: FolderOptions) -> Plan:
    """No input is written over. Where outputs that exist count as done they may be inputs, too, if they lie in the same
    folder: what an earlier run has made of one picture is passed over, and not made larger still."""
    sources = {job: identity(job.source) for job in plan.jobs}
    targets = {job: identity(job.target) for job in plan.jobs}
    inputs = {known for known in sources.values() if known}
    earlier = {targets[job] for job in plan.jobs if options.skip_existing and targets[job] != sources[job]}
    steps: list[Job | Refused] = []
    passed_over = {others.folder: others.names for others in plan.passed_over}
    for step in plan.steps:
        if isinstance(step, Refused):
            steps.append(step)
        elif sources[step] and sources[step] in earlier:
            folder = step.source.parent
            passed_over[folder] = (*passed_over.get(folder, ()), step.source.name)
        elif targets[step] in inputs and targets[step] not in earlier:
            steps.append(Refused(step.source, _is_an_input(step.target)))
        else:
            steps.append(step)
    return Plan(tuple(steps), tuple(PassedOver(folder, names) for folder, names in passed_over.items()))


def _with_work(plan: Plan) -> Plan:
    """`plan`, if there is anything to be done. Raises `BadOptionError` with the reasons if there is not."""
    refused = [step for step in plan.steps if isinstance(step, Refused)]
    if refused and not plan.jobs:
        more = f" (and {len(refused) - 1} more that cannot be done)" if len(refused) > 1 else ""
        raise BadOptionError(refused[0].reason + more)
    return plan
