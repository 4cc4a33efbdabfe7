"""`cudaspeed farm run`, `status` and `retry`, none of which needs torch: workers do."""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..api.errors import BadOptionError
from ..images.jobs import why_unwritable
from ..images.kinds import ENDINGS
from ..images.limits import DecodeLimits
from ..images.naming import FolderOptions
from ..images.whole import write_whole
from ..models.loader import check_file
from ..scaleout.actor import Folders
from ..scaleout.cluster import FarmOptions, joined
from ..scaleout.crew import Crew
from ..scaleout.farm import Farm, Progress
from ..scaleout.manifest import Manifest, open_manifest, read_manifest
from ..scaleout.ray_library import load_ray
from ..scaleout.shipping import ShippedModel, Shipper
from ..video.films import ENDINGS as FILMS
from ..video.options import VideoOptions
from ..video.pyav import load_av
from .console import Console
from .devices import check_device
from .exit_codes import DONE, FAILED
from .farm_listing import Naming, list_units
from .farm_work import made_by, make_work
from .options import options_of, upscale_options

logger = logging.getLogger("cudaspeed")

REPORT = "report.json"
# What may be another when a farm is gone on with: the results are the same.
_OF_THE_RUN = {
    *("inputs", "output", "recursive", "max_megapixels", "json", "verbose", "run"),
    *("address", "actors", "gpus_per_actor", "cpus_per_actor", "reserve_vram", "ship"),
}
_FLAGS = {"reproducible": "--frozen", "target": "--resize"}  # that are called otherwise than what they set


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Upscale what is not done yet; a line a second says how far it is."""
    return _run(arguments, console, again=False)


def _run(arguments: argparse.Namespace, console: Console, again: bool) -> int:
    """With what was set aside, too, if it is tried `again`; it waits only once nothing is wrong with the rest."""
    options = options_of(FarmOptions, arguments)
    upscale_options(arguments)  # raises for what makes no sense, before anything is begun
    options_of(DecodeLimits, arguments)
    naming = Naming(options_of(FolderOptions, arguments), options_of(VideoOptions, arguments))
    output = Path(arguments.output).absolute()
    if output.suffix.lower() in ENDINGS and not output.is_dir():
        raise BadOptionError(f"{arguments.output} is called like a picture; a farm's output is a folder")
    check_file(arguments.model)
    check_device(arguments.device, arguments.reserve_vram)
    if os.path.isfile(arguments.model):  # noqa: PTH113  # else a name, which each machine has its own file of
        arguments.model = os.path.abspath(arguments.model)  # noqa: PTH100  # workers have folders of their own
    arguments.inputs = [os.path.abspath(given) for given in arguments.inputs]  # noqa: PTH100
    if flaw := why_unwritable(output):
        raise BadOptionError(flaw)
    ray = load_ray(alone=not options.address)
    with open_manifest(output) as manifest:
        results = made_by(arguments.model)
        manifest.begin(_decides(arguments) | {"--model": results["model"]})
        if again:
            manifest.try_again()
        manifest.sweep()
        manifest.take_notes()
        if options.ship:  # parts lie where its workers do not see them
            manifest.undo_splits()
        listing = list_units(arguments.inputs, output, naming, manifest.targets())
        films = any(unit.source.lower().endswith(FILMS) for unit in listing.units)
        if films:
            load_av()  # raises where it is missing, before workers are hired in vain
        for failure in listing.failures:
            logger.error(failure)
        manifest.merge(listing.units)
        given = {name: value for name, value in vars(arguments).items() if name != "run"}
        manifest.set_value("arguments", given)
        # shipped films are done in one piece
        code = _carry_out(manifest, _Crews(ray, options, given, results, films and not options.ship), console)
    return FAILED if listing.failures else code


def retry(arguments: argparse.Namespace, console: Console) -> int:
    """Let what was set aside wait again, and go on as the farm was begun."""
    from .arguments import parser  # which knows this module only by its name

    with read_manifest(Path(arguments.output)) as manifest:
        given = manifest.value("arguments")
    if given is None:
        raise BadOptionError(f"the farm of {arguments.output} was stopped before it began; 'farm run' begins it")
    usual = parser().parse_args(["farm", "run", *given["inputs"], "-o", arguments.output])
    mine = {name: getattr(arguments, name) for name in ("output", "json", "verbose")}
    return _run(argparse.Namespace(**{**vars(usual), **given, **mine}), console, again=True)


def status(arguments: argparse.Namespace, console: Console) -> int:
    """How far it is, and what was set aside and why."""
    with read_manifest(Path(arguments.output)) as manifest:
        counts = manifest.counts()
        total = sum(counts.values())
        console.tell(
            {**counts, "total": total},
            f"{counts['done']} of {total} done, {counts['waiting']} to be done, {counts['failed']} set aside",
        )
        for told in manifest.outcomes("failed"):
            console.tell({"input": told["source"], "error": told["error"], "tries": told["tries"]}, told["error"])
    return DONE


@dataclass(frozen=True)
class _Crews:
    """How workers are found and what they are told: what was `given`, and what the `results` are made by. `alike`: all
    are to be of one kind."""

    ray: Any
    options: FarmOptions
    given: Mapping[str, Any]
    results: Mapping[str, str]
    alike: bool

    @contextmanager
    def crew(self, manifest: Manifest) -> Iterator[Crew]:
        """Within it workers can be hired."""
        folders = Folders(str(manifest.output), str(manifest.parts), str(manifest.notes))
        with joined(self.ray, self.options) as cluster:
            if not self.options.ship:
                yield Crew(cluster, (make_work, self.given, folders), self.results, alike=self.alike)
                return
            is_file = os.path.isfile(self.given["model"])  # noqa: PTH113
            model = self.ray.put(ShippedModel.read(Path(self.given["model"])) if is_file else None)
            yield Crew(cluster, (make_work, self.given, model), self.results, Shipper(folders))


def _carry_out(manifest: Manifest, crews: _Crews, console: Console) -> int:
    stopped = ""
    if manifest.counts()["waiting"]:
        with crews.crew(manifest) as crew:
            farm = Farm(manifest, crew, lambda progress: console.tell(vars(progress), _line(progress)))
            farm.run()
            stopped = farm.stopped
    else:
        console.tell({**manifest.counts(), "nothing_to_do": True}, "nothing to do")
    if stopped:
        logger.error("%s; make room, and the same command goes on", stopped)
        return FAILED
    _write_report(manifest)
    failed = manifest.counts()["failed"]
    if manifest.counts()["waiting"]:
        logger.error("some of it was not done; the same command goes on")
        return FAILED
    if failed:
        logger.error(
            "%d set aside; 'cudaspeed farm status %s' says why, and 'farm retry' tries again", failed, manifest.output
        )
    return FAILED if failed else DONE


def _decides(arguments: argparse.Namespace) -> dict[str, Any]:
    """What of the arguments decides the results, by the names of the options."""
    return {
        _FLAGS.get(name, f"--{name.replace('_', '-')}"): value
        for name, value in sorted(vars(arguments).items())
        if name not in _OF_THE_RUN
    }


def _line(progress: Progress) -> str:
    if not progress.workers and not progress.units_per_second:
        return f"{progress.done}/{progress.total} done, workers are being started"
    left = "" if progress.seconds_left is None else f", {_clock(progress.seconds_left)} left"
    return (
        f"{progress.done}/{progress.total} done, {progress.units_per_second:.2f}/s, "
        f"{progress.megapixels_per_second:.2f} MP/s{left}, {progress.failed} set aside, {progress.workers} workers"
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _write_report(manifest: Manifest) -> None:
    """All units, one a line, in a list."""

    def write(file: Any) -> None:
        before = b"[\n"
        for told in manifest.outcomes():
            file.write(before + json.dumps(told).encode())
            before = b",\n"
        file.write(b"\n]\n" if before == b",\n" else b"[]\n")

    write_whole(manifest.output / REPORT, write)
