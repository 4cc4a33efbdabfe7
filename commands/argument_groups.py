"""Groups of arguments, of which the commands are put together. What is read here takes neither torch nor NumPy."""

from __future__ import annotations

import argparse
from collections.abc import Callable
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

_SEGMENT_SECONDS = 10.0
A_MODEL = "a name that 'cudaspeed models' lists, or a model file"


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Hand mistakes to `main`, which reports all of them alike, in one line."""
        raise BadOptionError(f"{message} (see {self.prog} --help)")


def told_alone(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """`parse`, whose errors say what is wrong better than argparse does in its own words."""

    def told(text: str) -> Any:
        try:
            return parse(text)
        except BadOptionError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return told


def output_arguments() -> Parser:
    """What all commands have."""
    shared = Parser(add_help=False)
    shared.add_argument("--json", action="store_true", help="one JSON object per line on standard output")
    shared.add_argument("--verbose", action="store_true", help="tell more on standard error, with tracebacks")
    return shared


def computing_arguments() -> Parser:
    """What upscaling and compiling for it must agree on."""
    shared = Parser(add_help=False, parents=[reserve_argument()])
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
        help="auto, cpu, cuda:0, openvino:GPU, tpu, ...; several share the work: cuda:0,cuda:1, or all (default: auto)",
    )
    shared.add_argument(
        "--fallback",
        action="store_true",
        help="what tpu, xla or openvino:GPU cannot compute, torch computes on the CPU (else it is an error)",
    )
    return shared


def reserve_argument() -> Parser:
    shared = Parser(add_help=False)
    shared.add_argument(
        "--reserve-vram",
        type=float,
        metavar="GB",
        help="the device's memory that is left to other programs (default: 0.4, on Windows 0.6, or 0.7 of large cards)",
    )
    return shared


def compiling_arguments() -> Parser:
    """What upscaling and finding out how to must agree on, too."""
    shared = Parser(add_help=False)
    shared.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compile the model where that pays (default: yes)",
    )
    shared.add_argument("--level", choices=LEVELS, default="balanced", help="what to optimise for (default: balanced)")
    return shared


def add_file_arguments(command: argparse.ArgumentParser) -> None:
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
    add_picture_arguments(command)


def add_picture_arguments(command: argparse.ArgumentParser) -> None:
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


def add_film_arguments(command: argparse.ArgumentParser) -> None:
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
    add_encoding_arguments(command)
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
        type=told_alone(parse_rate),
        metavar="N",
        help="frames a second of a film that is made of pictures, such as 25 or 24000/1001",
    )


def add_encoding_arguments(command: argparse.ArgumentParser) -> None:
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


def add_upscale_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model",
        metavar="NAME_OR_PATH",
        default=DEFAULT_MODEL,
        help=f"{A_MODEL} (default: %(default)s)",
    )
    add_run_arguments(command)
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


def add_run_arguments(command: argparse.ArgumentParser) -> None:
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


def add_latent_arguments(command: argparse.ArgumentParser) -> None:
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


def add_size_arguments(command: argparse.ArgumentParser) -> None:
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
