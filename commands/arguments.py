"""The arguments of all commands. What is read has `run`, the function that carries the command out.

Help, the version and mistakes are told from here alone, which takes neither torch nor NumPy."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, NoReturn

from ..api.errors import BadOptionError
from ..api.options import ALPHA_MODES, COMPILE_MODES, LEVELS, PRECISION_CHOICES, TILING_MODES
from ..api.resize import FITS, LEAST_SCALE, MOST_SCALE, RESAMPLES
from ..images.kinds import ENDINGS
from ..images.limits import DEFAULT_LIMITS
from ..images.naming import FORMATS
from ..latents.jobs import ENDING as LATENTS
from ..latents.options import LATENT_RESAMPLINGS, LEAST_LATENT_SCALE, MOST_LATENT_SCALE
from ..models.loader import DEFAULT_MODEL
from ..video.encoders import CONTAINERS
from ..video.films import ENDINGS as FILMS
from ..video.frame_rate import parse_rate
from ..video.options import BITS, CODECS
from .console import Console
from .exit_codes import EXPLAINED

Run = Callable[[argparse.Namespace, Console], int]

_SEGMENT_SECONDS = 10.0
_A_MODEL = "a name that 'cudaspeed models' lists, or a model file"


_OF_FILMS = """Upscale films, frame by frame, in memory that does not grow with their length.

Sound, subtitles and all else in a film's file are copied; what a container does not take is named before the first
frame. Needs PyAV 17.1 or newer: pip install "cudaspeed[video]". Work is kept in
segments beside the output, in a folder called like it with .parts behind: whatever stops a film, the same command goes
on with it. Ctrl-C leaves a film of what is done, called out.partial.mp4 where it is to be out.mp4."""


_OF_FARMS = """Upscale pictures and films by many workers, on this machine or several, and keep account of them.

Needs Ray 2.58 or newer: pip install "ray>=2.58". Without --address it is this machine's alone, for as long as the
command runs; with it the farm joins a Ray that runs, whose machines have the pack, and find inputs, outputs and the
model under the same paths. What was done is kept in the output folder, in .farm: the same command goes on with it."""


_OF_LATENTS = """Upscale latents by a latent upscaler: for a second sampler, without decoding and encoding them.

Inputs are files that ComfyUI's SaveLatent has written, old ones without a version among them. Outputs are such files,
too, for LoadLatent, with the same workflow in them. Sizes of tiles and overlaps are in the latent's own pixels."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Hand mistakes to `main`, which reports all of them alike, in one line."""
        raise BadOptionError(f"{message} (see {self.prog} --help)")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *arguments: Any, **named: Any) -> NoReturn:
        """As argparse's own, for a version that is looked up when it is asked for, which takes its time."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            told = version("cudaspeed")
        except PackageNotFoundError:  # a checkout, run as it lies there
            told = "(not installed)"
        sys.stdout.write(f"cudaspeed {told}\n")
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """The parser of all commands. It raises `BadOptionError` for what makes no sense."""
    top = _Parser(
        prog="cudaspeed",
        description="Upscale pictures, fast and within the memory there is.",
        epilog=EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    output = _output_arguments()

    one = commands.add_parser(
        "upscale",
        parents=[output, _computing_arguments(), _compiling_arguments()],
        help="upscale pictures or a folder of them",
        epilog=EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_file_arguments(one)
    _add_upscale_arguments(one)
    _add_size_arguments(one)
    one.set_defaults(run=_later("request"))

    film = commands.add_parser(
        "video",
        parents=[output, _computing_arguments(), _compiling_arguments()],
        help="upscale films, with their sound, subtitles and all else that is in their files",
        description=_OF_FILMS,
        epilog=EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_film_arguments(film)
    _add_upscale_arguments(film)
    _add_size_arguments(film)
    film.set_defaults(run=_later("video"))

    latent = commands.add_parser(
        "latent",
        parents=[output, _computing_arguments(), _compiling_arguments()],
        help="upscale latents that ComfyUI's SaveLatent has written, without decoding them",
        description=_OF_LATENTS,
        epilog=EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_latent_arguments(latent)
    _add_run_arguments(latent)
    latent.set_defaults(run=_later("latent"))

    _add_farm(commands, output)

    listed = commands.add_parser("models", parents=[output], help="list the bundled and the found models")
    listed.set_defaults(run=_later("models"))

    shown = commands.add_parser(
        "devices",
        parents=[output, _reserve_argument()],
        help="list the devices there are, their memory and number types",
    )
    shown.set_defaults(run=_later("device_list"))

    engines = commands.add_parser(
        "backends",
        parents=[output],
        help="list the engines that compile models: which are there, what for, and how the others are installed",
    )
    engines.set_defaults(run=_later("backends"))

    tuned = commands.add_parser(
        "tune",
        parents=[output, _computing_arguments(), _compiling_arguments()],
        help="find out now what is the fastest for a model here, instead of bit by bit beside pictures",
    )
    tuned.add_argument("models", nargs="+", metavar="MODEL", help=_A_MODEL)
    tuned.add_argument("--size", metavar="WxH", help="of the pictures to come (default: those that are usual)")
    tuned.set_defaults(run=_later("tune"))

    told = commands.add_parser(
        "info",
        parents=[output, _computing_arguments()],
        help="what a model takes of memory, item by item, for a picture of a size",
    )
    told.add_argument("model", metavar="MODEL", help=_A_MODEL)
    told.add_argument("--size", metavar="WxH", help="of the picture (default: 1024x1024)")
    told.add_argument("--level", choices=LEVELS, default="balanced", help="what to optimise for (default: balanced)")
    told.set_defaults(run=_later("info"))

    of_cache = commands.add_parser("cache", help="show, empty or fill the folder of compiled models")
    actions = of_cache.add_subparsers(required=True, metavar="ACTION")
    listed = actions.add_parser("list", parents=[output], help="what is compiled, what failed and why")
    listed.set_defaults(run=_later("cache", "show"))
    clear = actions.add_parser("clear", parents=[output], help="delete what is compiled, and what is known of models")
    clear.set_defaults(run=_later("cache", "clear"))
    warm = actions.add_parser(
        "warm", parents=[output, _computing_arguments()], help="compile ahead of time, and wait for it"
    )
    warm.add_argument("model", metavar="MODEL", help=_A_MODEL)
    warm.add_argument("--size", nargs="+", required=True, metavar="WxH", help="sizes of the pictures to come")
    warm.set_defaults(run=_later("cache", "warm"))
    return top


def _told_alone(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """`parse`, whose errors say what is wrong better than argparse does in its own words."""

    def told(text: str) -> Any:
        try:
            return parse(text)
        except BadOptionError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return told


def _later(module: str, function: str = "run") -> Run:
    """The `function` in `module` of this package, which is imported when the command is carried out."""

    def run(arguments: argparse.Namespace, console: Console) -> int:
        return getattr(import_module(f".{module}", __package__), function)(arguments, console)

    return run


def _output_arguments() -> _Parser:
    """What all commands have."""
    shared = _Parser(add_help=False)
    shared.add_argument("--json", action="store_true", help="one JSON object per line on standard output")
    shared.add_argument("--verbose", action="store_true", help="tell more on standard error, with tracebacks")
    return shared


def _computing_arguments() -> _Parser:
    """What upscaling and compiling for it must agree on."""
    shared = _Parser(add_help=False, parents=[_reserve_argument()])
    shared.add_argument("--precision", choices=PRECISION_CHOICES, default="auto", help="number type (default: auto)")
    shared.add_argument(
        "--autocast",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep delicate operations in fp32 (default: yes)",
    )
    shared.add_argument("--tile", type=int, default=0, metavar="N", help="longest tile side in pixels, 0 = automatic")
    shared.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda:0, openvino:GPU, ...; several share the work: cuda:0,cuda:1, or all (default: auto)",
    )
    return shared


def _reserve_argument() -> _Parser:
    shared = _Parser(add_help=False)
    shared.add_argument(
        "--reserve-vram",
        type=float,
        metavar="GB",
        help="the device's memory that is left to other programs (default: 0.4, on Windows 0.6, or 0.7 of large cards)",
    )
    return shared


def _compiling_arguments() -> _Parser:
    """What upscaling and finding out how to must agree on, too."""
    shared = _Parser(add_help=False)
    shared.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compile the model where that pays (default: yes)",
    )
    shared.add_argument("--level", choices=LEVELS, default="balanced", help="what to optimise for (default: balanced)")
    return shared


def _add_file_arguments(command: argparse.ArgumentParser) -> None:
    """Which pictures, and where they go."""
    command.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help=f"pictures, or folders of them ({', '.join(ENDINGS)}, or whatever begins like one of these)",
    )
    command.add_argument("-o", "--output", required=True, help="a picture file, or a folder (several inputs need one)")
    command.add_argument(
        "--skip-existing",
        action="store_true",
        help="an output that exists counts as done (none is ever left half-written)",
    )
    _add_picture_arguments(command)


def _add_picture_arguments(command: argparse.ArgumentParser) -> None:
    """How pictures are found, read and named: those of `FolderOptions` and `DecodeLimits`."""
    command.add_argument(
        "--recursive", action="store_true", help="with the pictures of subfolders, which are mirrored in the output"
    )
    command.add_argument(
        "--format", choices=FORMATS, default="", help="of all pictures in the output folder (default: each its own)"
    )
    command.add_argument(
        "--suffix", default="", metavar="TEXT", help="for names in the output folder: _x4 makes photo_x4.png"
    )
    command.add_argument(
        "--max-megapixels",
        type=float,
        default=DEFAULT_LIMITS.max_megapixels,
        metavar="N",
        help="largest picture that is read; small files can claim any size (default: %(default).0f)",
    )


def _add_film_arguments(command: argparse.ArgumentParser) -> None:
    """Which films, and how they are written: those of `VideoOptions`."""
    command.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help=f"films, or folders of them ({', '.join(FILMS)}), or frames that are pictures: frames/%%06d.png",
    )
    command.add_argument(
        "-o",
        "--output",
        required=True,
        help=f"a film ({', '.join(CONTAINERS)}), frames that are pictures (out/%%06d.png), or a folder, where films "
        "keep their names, and their endings if these can be written; others become .mkv, which keeps the most",
    )
    command.add_argument(
        "--overwrite",
        action="store_true",
        help="replace films that exist (default: in a folder they count as done, and a named one is an error)",
    )
    _add_encoding_arguments(command)
    again = command.add_mutually_exclusive_group()
    again.add_argument(
        "--resume",
        dest="restart",
        action="store_false",
        default=False,  # of both
        help="go on with what an earlier run left; with another input or other options that is an error (the default)",
    )
    again.add_argument("--restart", action="store_true", help="throw away what an earlier run left, and begin anew")
    command.add_argument(
        "--fps",
        type=_told_alone(parse_rate),
        metavar="N",
        help="frames a second of a film that is made of pictures, such as 25 or 24000/1001",
    )


def _add_encoding_arguments(command: argparse.ArgumentParser) -> None:
    """How films are read and written, wherever they are."""
    command.add_argument(
        "--codec",
        choices=CODECS,
        default=CODECS[0],
        help="encoder (default: libx264, for .webm libvpx-vp9); those of NVENC need a driver",
    )
    command.add_argument(
        "--crf", type=int, metavar="N", help="the encoder's number for quality, small is good (default: 17 of libx264)"
    )
    command.add_argument(
        "--segment-seconds",
        type=float,
        default=_SEGMENT_SECONDS,
        metavar="N",
        help="length of the segments that work is kept in, 0 = none: what is stopped then begins anew "
        "(default: %(default)g)",
    )
    command.add_argument(
        "--bits", type=int, choices=BITS[1:], default=BITS[0], help="a channel (default: 8 as the film, 10 for more)"
    )
    command.add_argument(
        "--deinterlace",
        action="store_true",
        help="make whole pictures of interlaced frames, by bwdif, before upscaling",
    )
    command.add_argument(
        "--still",
        type=int,
        default=0,
        metavar="N",
        help="parts that differ by at most N/255 from when they were last computed stand still, for up to a second "
        "(default: %(default)s, only what is exactly the same)",
    )


def _add_farm(commands: Any, output: _Parser) -> None:
    """The farm's own commands."""
    of_farm = commands.add_parser("farm", help="upscale thousands of pictures, or long films, by many workers (Ray)")
    actions = of_farm.add_subparsers(required=True, metavar="ACTION")
    run = actions.add_parser(
        "run",
        parents=[output, _computing_arguments(), _compiling_arguments()],
        help="upscale what is not done yet",
        description=_OF_FARMS,
        epilog=EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="pictures, films, folders of them, or lists: .txt, one path a line"
    )
    run.add_argument("-o", "--output", required=True, help="a folder")
    run.add_argument("--address", default="", help="of a Ray to join, such as 10.0.0.1:6379 (default: one of its own)")
    seen = run.add_mutually_exclusive_group()
    seen.add_argument(
        "--shared",
        dest="ship",
        action="store_false",
        default=False,  # of both
        help="all machines see inputs, output and model under the same paths (the default)",
    )
    seen.add_argument(
        "--ship", action="store_true", help="they do not: files of up to 64 MiB, and the model, travel to the workers"
    )
    run.add_argument(
        "--actors", type=_told_alone(_parse_actors), default=0, metavar="N", help="workers (default: auto, all places)"
    )
    run.add_argument(
        "--gpus-per-actor",
        type=float,
        default=1.0,
        metavar="N",
        help="GPUs of a worker, where there are any; 0.5: two share one (default: 1)",
    )
    run.add_argument(
        "--cpus-per-actor", type=int, default=1, metavar="N", help="threads that a worker computes with (default: 1)"
    )
    _add_picture_arguments(run)
    _add_encoding_arguments(run)
    _add_upscale_arguments(run)
    _add_size_arguments(run)
    run.set_defaults(run=_later("farm"))
    for name, told in (
        ("status", "how far a farm is, and what was set aside"),
        ("retry", "upscale what was set aside once more, as the farm that did had it"),
    ):
        action = actions.add_parser(name, parents=[output], help=told)
        action.add_argument("output", metavar="OUTPUT", help="the farm's output folder")
        action.set_defaults(run=_later("farm", name))


def _parse_actors(text: str) -> int:
    if text == "auto":
        return 0
    if not text.isdecimal() or not int(text):
        raise BadOptionError(f"actors is {text!r}; give a number of workers, or auto")
    return int(text)


def _add_upscale_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model",
        metavar="NAME_OR_PATH",
        default=DEFAULT_MODEL,
        help=f"{_A_MODEL} (default: %(default)s)",
    )
    _add_run_arguments(command)
    command.add_argument(
        "--tiling-mode",
        choices=TILING_MODES,
        default="none",
        help="for seamless textures, which stay seamless: wrap in both directions, wrap_x from left to right, "
        "wrap_y from top to bottom (default: none)",
    )
    command.add_argument(
        "--alpha-mode",
        choices=ALPHA_MODES,
        default="auto",
        help="how transparency is enlarged; auto: sharp edges by the model, anything else by Lanczos (default: auto)",
    )


def _add_run_arguments(command: argparse.ArgumentParser) -> None:
    """How tiles are computed, of whatever kind their values are."""
    command.add_argument("--overlap", type=int, default=0, metavar="N", help="least overlap in pixels, 0 = automatic")
    command.add_argument("--batch-size", type=int, default=1, metavar="N", help="most frames in flight (default: 1)")
    command.add_argument(
        "--compile-mode",
        choices=COMPILE_MODES,
        default="auto",
        help="auto: in the background, where the work repays it; background: at once; wait: before the first tile",
    )
    command.add_argument(
        "--frozen",
        dest="reproducible",
        action="store_true",
        help="choose nothing by measuring, so that two machines of one kind give the same picture bit for bit",
    )


def _add_latent_arguments(command: argparse.ArgumentParser) -> None:
    """Which latents, and what comes of them: `LatentSize`, and the model."""
    command.add_argument(
        "inputs", nargs="+", metavar="INPUT", help=f"latents, or folders of them ({LATENTS}, safetensors inside)"
    )
    command.add_argument(
        "-o", "--output", required=True, help=f"a file ({LATENTS}), or a folder (several inputs need one)"
    )
    command.add_argument(
        "--skip-existing", action="store_true", help="an output that exists counts as done (default: it is replaced)"
    )
    command.add_argument(
        "--model",
        metavar="NAME_OR_PATH",
        required=True,
        help="a latent upscaler's file, or its name in CUDASPEED_MODELS",
    )
    command.add_argument(
        "--scale",
        type=float,
        metavar="N",
        help="what a file of SD-Latent-Upscaler enlarges by that was renamed, 1.25, 1.5 or 2; its weights do not tell",
    )
    command.add_argument(
        "--scale-by",
        type=float,
        default=0.0,
        metavar="N",
        help=f"size of the results as a factor of the latents', {LEAST_LATENT_SCALE:g} to {MOST_LATENT_SCALE:g} "
        "(default: the most that the model enlarges by)",
    )
    command.add_argument(
        "--resampling",
        choices=LATENT_RESAMPLINGS,
        default="none",
        help="how a size is reached that the model has not; none: it is an error; area: means, blurred; bislerp: turns "
        "from one latent pixel to the next, and keeps their length (default: none)",
    )


def _add_size_arguments(command: argparse.ArgumentParser) -> None:
    """The size of what comes of a picture: those of `Resize`."""
    command.add_argument(
        "--resize",
        dest="target",
        metavar="WxH",
        help="size of the results, 3840x2160, or one side of it, 3840x or x2160 (default: the model's scale)",
    )
    command.add_argument(
        "--scale-by",
        type=float,
        default=0.0,
        metavar="N",
        help=f"size of the results as a factor of the inputs', {LEAST_SCALE:g} to {MOST_SCALE:g}; the model runs again "
        "where one run is not enough",
    )
    command.add_argument(
        "--fit",
        choices=FITS,
        default="stretch",
        help="what becomes of another aspect than --resize has: stretched; cropped; padded, with black or "
        "transparent; as large as fits inside (default: stretch)",
    )
    command.add_argument(
        "--resample",
        choices=RESAMPLES,
        default="lanczos",
        help="how results are made that size, from sharp to soft: lanczos, bicubic, area (default: lanczos)",
    )
