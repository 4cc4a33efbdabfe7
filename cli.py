"""The command line: `cudaspeed upscale`, `cudaspeed models` and `cudaspeed cache`."""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import torch
from spandrel import ImageModelDescriptor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from .api.errors import BadModelError, BadOptionError, CudaspeedError, first_line
from .api.options import ALPHA_MODES, COMPILE_MODES, LEVELS, PRECISION_CHOICES, TILING_MODES, UpscaleOptions
from .api.report import NOT_NEEDED, UpscaleReport
from .host import StandaloneContext, compiled_folder
from .images.files import ENDINGS_OF_16_BITS, READABLE_ENDINGS, check_fits, read_image, write_image
from .images.jobs import Job, plan_jobs, refuse_unwritable
from .models.loader import DEFAULT_MODEL, find_models, load_model, model_folders
from .storage.artifacts import ArtifactStore, Entry
from .storage.profiles import ProfileStore, profiles_folder
from .upscale_engine import upscale, warm_up

DONE, FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130
_LONGEST_SIDE = 1 << 16  # pixels, of a picture to compile for
logger = logging.getLogger("cudaspeed")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 a picture failed or a model could not be compiled, 2 bad
    usage, 130 stopped by Ctrl-C."""
    try:
        arguments = _parser().parse_args(argv)
        with _logging_to_stderr(arguments.verbose):
            return arguments.run(arguments)
    except (BadOptionError, BadModelError, OSError) as error:  # OSError: a path that no file system takes
        print(f"cudaspeed: error: {error}", file=sys.stderr)
        return BAD_USAGE
    except KeyboardInterrupt:
        print("cudaspeed: stopped", file=sys.stderr)
        return INTERRUPTED


@contextmanager
def _logging_to_stderr(verbose: bool) -> Iterator[None]:
    """Show our log for the length of one command; a second `main` in one process must not show it twice."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("cudaspeed: %(levelname)s: %(message)s"))
    silent = logging.NullHandler()
    decoder_logs = (logging.getLogger("tifffile"), logging.getLogger("imagecodecs"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING)
    for decoder_log in decoder_logs:
        decoder_log.addHandler(silent)  # of a damaged file they tell much that our one error says better
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        for decoder_log in decoder_logs:
            decoder_log.removeHandler(silent)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Hand mistakes to `main`, which reports all of them alike, in one line."""
        raise BadOptionError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    """The parser of all commands. What it reads has `run`, the function that carries the command out."""
    parser = _Parser(prog="cudaspeed", description="Upscale pictures, fast and within the memory there is.")
    parser.add_argument("--version", action="version", version=f"cudaspeed {version('cudaspeed')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    output = _output_arguments()

    upscale = commands.add_parser(
        "upscale", parents=[output, _computing_arguments()], help="upscale pictures or a folder of them"
    )
    _add_upscale_arguments(upscale)
    upscale.set_defaults(run=_upscale)

    models = commands.add_parser("models", parents=[output], help="list the bundled and the found models")
    models.set_defaults(run=_models)

    cache = commands.add_parser("cache", help="show, empty or fill the folder of compiled models")
    actions = cache.add_subparsers(required=True, metavar="ACTION")
    listed = actions.add_parser("list", parents=[output], help="what is compiled, what failed and why")
    listed.set_defaults(run=_cache_list)
    clear = actions.add_parser("clear", parents=[output], help="delete what is compiled, and what is known of models")
    clear.set_defaults(run=_cache_clear)
    warm = actions.add_parser(
        "warm", parents=[output, _computing_arguments()], help="compile ahead of time, and wait for it"
    )
    warm.add_argument("model", metavar="MODEL", help="a name that 'cudaspeed models' lists, or a model file")
    warm.add_argument("--size", nargs="+", required=True, metavar="WxH", help="sizes of the pictures to come")
    warm.set_defaults(run=_cache_warm)
    return parser


def _output_arguments() -> _Parser:
    """What all commands have."""
    shared = _Parser(add_help=False)
    shared.add_argument("--json", action="store_true", help="one JSON object per line on standard output")
    shared.add_argument("--verbose", action="store_true", help="tell more on standard error, with tracebacks")
    return shared


def _computing_arguments() -> _Parser:
    """What upscaling and compiling for it must agree on."""
    shared = _Parser(add_help=False)
    shared.add_argument("--precision", choices=PRECISION_CHOICES, default="auto", help="number type (default: auto)")
    shared.add_argument(
        "--autocast",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep delicate operations in fp32 (default: yes)",
    )
    shared.add_argument("--tile", type=int, default=0, metavar="N", help="longest tile side in pixels, 0 = automatic")
    shared.add_argument("--device", default="auto", help="auto, cpu, cuda:0, ... (default: auto)")
    return shared


def _add_upscale_arguments(upscale: argparse.ArgumentParser) -> None:
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
    upscale.add_argument("--overlap", type=int, default=0, metavar="N", help="least overlap in pixels, 0 = automatic")
    upscale.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compile the model where that pays (default: yes)",
    )
    upscale.add_argument("--level", choices=LEVELS, default="balanced", help="what to optimise for (default: balanced)")
    upscale.add_argument("--batch-size", type=int, default=1, metavar="N", help="most frames in flight (default: 1)")
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


def _options(arguments: argparse.Namespace) -> UpscaleOptions:
    """The options of the same names that a command has."""
    names = {field.name for field in fields(UpscaleOptions)}
    return UpscaleOptions(**{name: value for name, value in vars(arguments).items() if name in names})


def _upscale(arguments: argparse.Namespace) -> int:
    options = _options(arguments)
    jobs = plan_jobs(arguments.inputs, arguments.output)
    refuse_unwritable(jobs[0].target.parent)
    model = load_model(arguments.model)
    code = DONE
    for job in jobs:
        record = _run(job, model, options, arguments)
        if "error" in record:
            code = FAILED
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
        picture = read_image(job.source)
        height, width = picture.pixels.shape[:2]
        check_fits(job.target, width * model.scale, height * model.scale)
        if picture.bits >= 16 and options.precision == "auto" and job.target.suffix.lower() in ENDINGS_OF_16_BITS:
            options = replace(options, precision="fp32")  # half precision keeps 8 to 11 of them
        result = upscale(torch.from_numpy(picture.pixels)[None], model, options, context)
    pixels = result.image[0].float().cpu().numpy()
    job.target.parent.mkdir(parents=True, exist_ok=True)
    lost = write_image(job.target, replace(picture, pixels=pixels))
    for warning in (*picture.warnings, *lost):  # the engine has logged its own
        logger.warning("%s: %s", job.source, warning)
    return {
        **_record(job, arguments.model, result.report),
        "warnings": [*picture.warnings, *result.report.warnings, *lost],
    }


def _record(job: Job, model: str, report: UpscaleReport) -> dict[str, Any]:
    """What is told of a finished job; sizes are (width, height)."""
    return {
        "input": str(job.source),
        "output": str(job.target),
        "input_size": report.input_size[::-1],
        "output_size": report.output_size[::-1],
        "model": model,
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
    record: dict[str, Any] = {"name": name, "path": str(path)}
    try:
        record["bytes"] = path.stat().st_size
        model = load_model(path)
    except (BadModelError, MemoryError, OSError) as error:  # OSError: it was deleted meanwhile
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


def _cache_list(arguments: argparse.Namespace) -> int:
    store = ArtifactStore(compiled_folder())
    entries = sorted(store.entries().values(), key=lambda entry: entry.used, reverse=True)
    for entry in entries:
        print(json.dumps(asdict(entry)) if arguments.json else _entry_line(entry), flush=True)
    if not arguments.json:
        ready = sum(entry.state == "ready" for entry in entries)
        print(f"{ready} compiled, {store.size() / 1e6:.1f} MB, in {store.folder}", flush=True)
    return DONE


def _entry_line(entry: Entry) -> str:
    what = entry.what
    told = f"{what.get('model', '?')[:40]:<40}  {what.get('shapes', 'eager'):<34}  {what.get('precision', ''):<13}"
    told += f"  {what.get('device', ''):<5}  {entry.state:<9}"
    if entry.state == "ready":
        gain = (
            f", {entry.eager_rate / entry.compiled_rate:.2f}x eager" if entry.eager_rate and entry.compiled_rate else ""
        )
        told += f"  {entry.bytes / 1e6:.1f} MB, {entry.compile_seconds:.0f} s, {entry.hits} hits{gain}"
    elif entry.reason:
        told += f"  {entry.reason}"
    elif entry.eager_seconds:
        told += f"  {entry.eager_seconds:.0f} s spent in eager"
    return told


def _cache_clear(arguments: argparse.Namespace) -> int:
    store = ArtifactStore(compiled_folder())
    freed = store.clear()
    ProfileStore(profiles_folder(store.folder)).clear()
    record = {"folder": str(store.folder), "freed_bytes": freed}
    print(json.dumps(record) if arguments.json else f"{freed / 1e6:.1f} MB freed in {store.folder}", flush=True)
    return DONE


def _cache_warm(arguments: argparse.Namespace) -> int:
    sizes = [parse_size(text) for text in arguments.size]
    options = _options(arguments)
    context, model = StandaloneContext(arguments.device), load_model(arguments.model)
    code = DONE
    for height, width in sizes:
        began = time.perf_counter()
        status = warm_up(model, (height, width), options, context)
        if status != "compiled" and not status.startswith(NOT_NEEDED):
            code = FAILED
        record = {"size": [width, height], "status": status, "seconds": time.perf_counter() - began}
        line = f"{width}x{height}: {status} ({record['seconds']:.1f} s)"
        print(json.dumps(record) if arguments.json else line, flush=True)
    return code


def parse_size(text: str) -> tuple[int, int]:
    """ "1920x1080" -> (height, width) in pixels. Raises `BadOptionError` for anything else."""
    found = re.fullmatch(r"(\d+)[xX×](\d+)", text)
    if not found or not all(0 < int(side) <= _LONGEST_SIDE for side in found.groups()):
        raise BadOptionError(
            f"size is {text!r}; give width and height in pixels, 1 to {_LONGEST_SIDE} each, such as 1920x1080"
        )
    return int(found[2]), int(found[1])


if __name__ == "__main__":
    sys.exit(main())
