"""The command line: `cudaspeed upscale`, `cudaspeed models` and `cudaspeed cache`."""

from __future__ import annotations

import argparse
import json
import logging
import mimetypes
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import torch
from spandrel import ImageModelDescriptor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from .cache_commands import add_cache_parser, run_cache
from .contracts import (
    ALPHA_MODES,
    COMPILE_MODES,
    LEVELS,
    PRECISION_CHOICES,
    TILING_MODES,
    BadModelError,
    BadOptionError,
    CudaspeedError,
    UpscaleOptions,
    first_line,
)
from .images.files import (
    ENDINGS_OF_16_BITS,
    READABLE_ENDINGS,
    WRITABLE_ENDINGS,
    check_fits,
    read_picture,
    write_picture,
)
from .models.loader import DEFAULT_MODEL, find_models, load_model, model_folders, resolve_model
from .standalone import StandaloneContext
from .upscale_engine import upscale

DONE, PICTURE_FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130
logger = logging.getLogger("cudaspeed")


@dataclass(frozen=True)
class Job:
    """One picture to upscale from `source` into `target`."""

    source: Path
    target: Path


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 a picture failed, 2 bad usage, 130 stopped by Ctrl-C."""
    try:
        arguments = _parser().parse_args(argv)
        with _logging_to_stderr(arguments.verbose):
            return {"upscale": _upscale, "models": _models, "cache": run_cache}[arguments.command](arguments)
    except (BadOptionError, BadModelError, OSError) as error:  # OSError: a path that no file system takes
        print(f"cudaspeed: error: {error}", file=sys.stderr)
        return BAD_USAGE
    except KeyboardInterrupt:
        print("cudaspeed: stopped", file=sys.stderr)
        return INTERRUPTED


def plan_jobs(inputs: Sequence[str], output: str) -> list[Job]:
    """Which picture goes where; changes nothing on disk.

    A folder among `inputs` stands for its pictures, sorted, without those of its subfolders. `output` is a folder if
    it exists as one, ends with a separator, or has no picture's ending. In a folder a picture
    keeps its name, and its ending where that can be written, .png otherwise. An input that does not exist is kept: it
    fails when its turn comes. Raises `BadOptionError` for an empty folder, an output whose format cannot be written,
    several inputs for one file, two inputs with one output, and an output that is an input.
    """
    sources = [source for given in inputs for source in _pictures_in(Path(given))]
    if _is_folder(output):
        jobs = [Job(source, Path(output) / _name_for(source)) for source in sources]
    elif Path(output).suffix.lower() not in WRITABLE_ENDINGS:
        raise BadOptionError(f"cannot write {output}; its ending must be one of {', '.join(WRITABLE_ENDINGS)}")
    elif len(inputs) > 1 or Path(inputs[0]).is_dir():
        raise BadOptionError(f"several pictures cannot all become {output}; name a folder")
    else:
        jobs = [Job(sources[0], Path(output))]
    _refuse_clashes(jobs)
    return jobs


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Hand mistakes to `main`, which reports all of them alike, in one line."""
        raise BadOptionError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="cudaspeed", description="Upscale pictures, fast and within the memory there is.")
    parser.add_argument("--version", action="version", version=f"cudaspeed {version('cudaspeed')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", help="one JSON object per line on standard output")
    shared.add_argument("--verbose", action="store_true", help="tell more on standard error, with tracebacks")

    upscale = commands.add_parser("upscale", parents=[shared], help="upscale pictures or a folder of them")
    upscale.add_argument(
        "inputs", nargs="+", metavar="INPUT", help=f"pictures ({', '.join(READABLE_ENDINGS)}) or folders"
    )
    upscale.add_argument("-o", "--output", required=True, help="a picture file, or a folder (several inputs need one)")
    upscale.add_argument(
        "--model",
        metavar="NAME_OR_PATH",
        default=DEFAULT_MODEL,
        help="a name that 'cudaspeed models' lists, or a model file (default: %(default)s)",
    )
    upscale.add_argument("--precision", choices=PRECISION_CHOICES, default="auto", help="number type (default: auto)")
    upscale.add_argument(
        "--autocast",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep delicate operations in fp32 (default: yes)",
    )
    upscale.add_argument("--tile", type=int, default=0, metavar="N", help="longest tile side in pixels, 0 = automatic")
    upscale.add_argument("--overlap", type=int, default=0, metavar="N", help="least overlap in pixels, 0 = automatic")
    upscale.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compile the model where that pays (default: yes)",
    )
    upscale.add_argument("--level", choices=LEVELS, default="balanced", help="what to optimise for (default: balanced)")
    upscale.add_argument("--batch-size", type=int, default=1, metavar="N", help="most frames in flight (default: 1)")
    upscale.add_argument("--device", default="auto", help="auto, cpu, cuda:0, ... (default: auto)")

    upscale.add_argument(
        "--compile-mode",
        choices=COMPILE_MODES,
        default="auto",
        help="auto: in the background, where the work repays it; background: at once; wait: before the first tile",
    )
    upscale.add_argument(
        "--tiling-mode",
        choices=TILING_MODES,
        default="none",
        help="for seamless textures, which stay seamless: wrap in both directions, wrap_x from left to right, "
        "wrap_y from top to bottom (default: none)",
    )
    upscale.add_argument(
        "--alpha-mode",
        choices=ALPHA_MODES,
        default="auto",
        help="how transparency is enlarged; auto: sharp edges by the model, anything else by Lanczos (default: auto)",
    )

    commands.add_parser("models", parents=[shared], help="list the bundled and the found models")
    add_cache_parser(commands, shared)
    return parser


@contextmanager
def _logging_to_stderr(verbose: bool) -> Iterator[None]:
    """Show our log for the length of one command; a second `main` in one process must not show it twice."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("cudaspeed: %(levelname)s: %(message)s"))
    silent = logging.NullHandler()
    decoder_log = logging.getLogger("tifffile")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING)
    decoder_log.addHandler(silent)  # of a damaged file it tells much that our one error says better
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        decoder_log.removeHandler(silent)


def _pictures_in(given: Path) -> list[Path]:
    if not given.is_dir():
        return [given]
    try:
        inside = sorted(given.iterdir())
    except OSError as error:
        raise BadOptionError(f"cannot look into the folder {given}: {error.strerror or error}") from error
    found = [
        path
        for path in inside
        if path.suffix.lower() in READABLE_ENDINGS and path.is_file() and not path.name.startswith(".")
    ]
    if not found:
        raise BadOptionError(f"the folder {given} holds no pictures ({', '.join(READABLE_ENDINGS)})")
    return found


def _is_folder(output: str) -> bool:
    separators = tuple(separator for separator in (os.sep, os.altsep) if separator)
    if Path(output).is_dir() or output.endswith(separators):
        return True
    kind = mimetypes.guess_type(output)[0] or ""  # so that out.gif is a picture we cannot write, and not a folder
    return Path(output).suffix.lower() not in READABLE_ENDINGS and not kind.startswith("image/")


def _name_for(source: Path) -> str:
    return source.name if source.suffix.lower() in WRITABLE_ENDINGS else f"{source.stem}.png"


def _refuse_clashes(jobs: Sequence[Job]) -> None:
    # Device and inode know a file under all its names: links, letter case.
    sources = {(stat.st_dev, stat.st_ino) for job in jobs if (stat := _stat(job.source))}
    writers: dict[str, Path] = {}
    for job in jobs:
        stat = _stat(job.target)
        if stat and (stat.st_dev, stat.st_ino) in sources:
            raise BadOptionError(f"{job.target} is an input; choose another output, inputs are never overwritten")
        place = os.path.realpath(job.target)
        if place in writers:
            raise BadOptionError(f"{writers[place]} and {job.source} would both become {job.target}; use two outputs")
        writers[place] = job.source


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:  # it does not exist, or cannot be reached, which reading or writing it will tell
        return None


def _refuse_unwritable(folder: Path) -> None:
    """Find out before hours of work; creates nothing that stays."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise BadOptionError(f"cannot write into {folder}: {error.strerror or error}") from error


def _upscale(arguments: argparse.Namespace) -> int:
    options = UpscaleOptions(
        precision=arguments.precision,
        autocast=arguments.autocast,
        tile=arguments.tile,
        overlap=arguments.overlap,
        compile=arguments.compile,
        level=arguments.level,
        batch_size=arguments.batch_size,
        compile_mode=arguments.compile_mode,
        tiling_mode=arguments.tiling_mode,
        alpha_mode=arguments.alpha_mode,
    )
    jobs = plan_jobs(arguments.inputs, arguments.output)
    _refuse_unwritable(jobs[0].target.parent)

    model = load_model(resolve_model(arguments.model))
    code = DONE
    for job in jobs:
        record = _run(job, model, options, arguments)
        if "error" in record:
            code = PICTURE_FAILED
            logger.error(record["error"])
        if arguments.json:
            print(json.dumps(record), flush=True)
        elif "error" not in record:
            print(_printable(_line(record)), flush=True)
    return code


def _run(
    job: Job, model: ImageModelDescriptor, options: UpscaleOptions, arguments: argparse.Namespace
) -> dict[str, Any]:
    """The job's JSON record, done or failed. What every other picture would meet as well is raised."""
    try:
        return _upscale_one(job, model, options, arguments)
    except (BadOptionError, BadModelError):
        raise
    except CudaspeedError as error:
        reason = str(error)
    except Exception as error:  # what breaks inside torch on one picture must not cost the others
        reason = f"unexpected {type(error).__name__}: {first_line(error)}"
        logger.debug("%s", job.source, exc_info=True)
    named = str(job.source) in reason or str(job.target) in reason
    return {"input": str(job.source), "error": reason if named else f"{job.source}: {reason}"}


def _upscale_one(
    job: Job, model: ImageModelDescriptor, options: UpscaleOptions, arguments: argparse.Namespace
) -> dict[str, Any]:
    # disable=None: tqdm itself looks whether standard error is a terminal
    bar = tqdm(desc=job.source.name, unit="tile", leave=False, disable=arguments.json or None)
    with logging_redirect_tqdm([logger]), bar:

        def show(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        context = StandaloneContext(arguments.device, show, lambda text: bar.set_postfix_str(text))
        picture = read_picture(job.source)
        height, width = picture.pixels.shape[:2]
        check_fits(job.target, width * model.scale, height * model.scale)
        if picture.bits == 16 and options.precision == "auto" and job.target.suffix.lower() in ENDINGS_OF_16_BITS:
            options = replace(options, precision="fp32")  # half precision keeps 8 to 11 of them
        result = upscale(torch.from_numpy(picture.pixels)[None], model, options, context)
    pixels = result.image[0].float().cpu().numpy()
    job.target.parent.mkdir(parents=True, exist_ok=True)
    lost = write_picture(job.target, replace(picture, pixels=pixels))
    for warning in (*picture.warnings, *lost):  # the engine has logged its own
        logger.warning("%s: %s", job.source, warning)
    report = result.report
    return {
        "input": str(job.source),
        "output": str(job.target),
        "input_size": report.input_size[::-1],
        "output_size": report.output_size[::-1],
        "model": arguments.model,
        "architecture": report.model,
        "scale": report.scale,
        "precision": report.precision,
        "autocast": report.autocast,
        "tile": report.tile[::-1],
        "overlap": report.overlap[::-1],
        "tiles": report.tiles,
        "compiled": report.compiled,
        "compiling": report.compiling,
        "seconds": report.seconds,
        "peak_bytes": report.peak_bytes,
        "warnings": [*picture.warnings, *report.warnings, *lost],
    }


def _line(record: dict[str, Any]) -> str:
    (width, height), (out_width, out_height) = record["input_size"], record["output_size"]
    speed = out_width * out_height / 1e6 / max(record["seconds"], 1e-9)
    return (
        f"{Path(record['input']).name}: {width}x{height} -> {out_width}x{out_height}, "
        f"{speed:.2f} megapixels/s, written to {record['output']}"
    )


def _printable(text: str) -> str:
    """File names need not be valid Unicode, and printing one that is not would raise."""
    return text.encode(errors="backslashreplace").decode()


def _models(arguments: argparse.Namespace) -> int:
    found = find_models()
    if not found:
        logger.warning("no models in %s", ", ".join(map(str, model_folders())))
    for name, path in found.items():
        record = _describe(name, path)
        print(json.dumps(record) if arguments.json else _printable(_model_line(record)), flush=True)
    return DONE


def _describe(name: str, path: Path) -> dict[str, Any]:
    record: dict[str, Any] = {"name": name, "path": str(path), "bytes": path.stat().st_size}
    try:
        model = load_model(path)
    except BadModelError as error:
        return {**record, "error": str(error)}
    supported = {"fp32": True, "fp16": model.supports_half, "bf16": model.supports_bfloat16}
    return {
        **record,
        "scale": model.scale,
        "architecture": model.architecture.name,
        "input_channels": model.input_channels,
        "output_channels": model.output_channels,
        "precisions": [precision for precision, works in supported.items() if works],
    }


def _model_line(record: dict[str, Any]) -> str:
    if "error" in record:
        return f"{record['name']:<36} cannot be used: {record['error']}"
    channels = f"{record['input_channels']}->{record['output_channels']}"
    return (
        f"{record['name']:<36} x{record['scale']}  {record['architecture']:<20} channels {channels}  "
        f"{' '.join(record['precisions']):<14}  {record['bytes'] / 1e6:.1f} MB  {record['path']}"
    )


if __name__ == "__main__":
    sys.exit(main())
