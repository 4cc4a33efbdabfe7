"""The arguments of all commands. What is read has `run`, the function that carries the command out.

Help, the version and mistakes are told from here alone, which takes neither torch nor NumPy."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, NoReturn

from ..api.errors import BadOptionError
from ..api.options import LEVELS
from .argument_groups import (
    A_MODEL,
    Parser,
    add_encoding_arguments,
    add_file_arguments,
    add_film_arguments,
    add_latent_arguments,
    add_picture_arguments,
    add_run_arguments,
    add_size_arguments,
    add_upscale_arguments,
    compiling_arguments,
    computing_arguments,
    output_arguments,
    reserve_argument,
    told_alone,
)
from .console import Console
from .exit_codes import EXPLAINED

Run = Callable[[argparse.Namespace, Console], int]


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


_OF_EXPORTS = """Export a model's forward for tiles of one size, with its weights, into one file.

It is a model file like others (--model FILE.stablehlo), with or without JAX. Where --device is xla or tpu, the program
in it computes its tiles, and nothing has to be compiled by torchax, which need not be there. Exporting takes no TPU,
but JAX and torchax: pip install jax==0.10.2 torchax==0.0.13 flatbuffers, with torch 2.9 to 2.11."""


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
    top = Parser(
        prog="cudaspeed",
        description="Upscale pictures, fast and within the memory there is.",
        epilog=EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    output = output_arguments()

    one = commands.add_parser(
        "upscale",
        parents=[output, computing_arguments(), compiling_arguments()],
        help="upscale pictures or a folder of them",
        epilog=EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_file_arguments(one)
    add_upscale_arguments(one)
    add_size_arguments(one)
    one.set_defaults(run=_later("request"))

    film = commands.add_parser(
        "video",
        parents=[output, computing_arguments(), compiling_arguments()],
        help="upscale films, with their sound, subtitles and all else that is in their files",
        description=_OF_FILMS,
        epilog=EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_film_arguments(film)
    add_upscale_arguments(film)
    add_size_arguments(film)
    film.set_defaults(run=_later("video"))

    latent = commands.add_parser(
        "latent",
        parents=[output, computing_arguments(), compiling_arguments()],
        help="upscale latents that ComfyUI's SaveLatent has written, without decoding them",
        description=_OF_LATENTS,
        epilog=EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_latent_arguments(latent)
    add_run_arguments(latent)
    latent.set_defaults(run=_later("latent"))

    _add_farm(commands, output)

    listed = commands.add_parser("models", parents=[output], help="list the bundled and the found models")
    listed.set_defaults(run=_later("models"))

    shown = commands.add_parser(
        "devices",
        parents=[output, reserve_argument()],
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
        parents=[output, computing_arguments(), compiling_arguments()],
        help="find out now what is the fastest for a model here, instead of bit by bit beside pictures",
    )
    tuned.add_argument("models", nargs="+", metavar="MODEL", help=A_MODEL)
    tuned.add_argument("--size", metavar="WxH", help="of the pictures to come (default: those that are usual)")
    tuned.set_defaults(run=_later("tune"))

    told = commands.add_parser(
        "info",
        parents=[output, computing_arguments()],
        help="what a model takes of memory, item by item, for a picture of a size",
    )
    told.add_argument("model", metavar="MODEL", help=A_MODEL)
    told.add_argument("--size", metavar="WxH", help="of the picture (default: 1024x1024)")
    told.add_argument("--level", choices=LEVELS, default="balanced", help="what to optimise for (default: balanced)")
    told.set_defaults(run=_later("info"))

    _add_export(commands, output)

    of_cache = commands.add_parser("cache", help="show, empty or fill the folder of compiled models")
    actions = of_cache.add_subparsers(required=True, metavar="ACTION")
    listed = actions.add_parser("list", parents=[output], help="what is compiled, what failed and why")
    listed.set_defaults(run=_later("cache", "show"))
    clear = actions.add_parser("clear", parents=[output], help="delete what is compiled, and what is known of models")
    clear.set_defaults(run=_later("cache", "clear"))
    warm = actions.add_parser(
        "warm", parents=[output, computing_arguments()], help="compile ahead of time, and wait for it"
    )
    warm.add_argument("model", metavar="MODEL", help=A_MODEL)
    warm.add_argument("--size", nargs="+", required=True, metavar="WxH", help="sizes of the pictures to come")
    warm.set_defaults(run=_later("cache", "warm"))
    return top


def _later(module: str, function: str = "run") -> Run:
    """The `function` in `module` of this package, which is imported when the command is carried out."""

    def run(arguments: argparse.Namespace, console: Console) -> int:
        return getattr(import_module(f".{module}", __package__), function)(arguments, console)

    return run


def _add_export(commands: Any, output: Parser) -> None:
    exported = commands.add_parser(
        "export",
        parents=[output],
        help="a model as a file of StableHLO, for TPUs and whatever else XLA computes on",
        description=_OF_EXPORTS,
        epilog=EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    exported.add_argument("model", metavar="MODEL", help=A_MODEL)
    exported.add_argument("--to", choices=("stablehlo",), default="stablehlo", help="(default: stablehlo)")
    exported.add_argument("--tile", required=True, metavar="WxH", help="the tiles that it takes, in pixels")
    exported.add_argument(
        "--platform", default="cpu,tpu", metavar="NAMES", help="cpu, cuda, tpu, with commas between (default: cpu,tpu)"
    )
    exported.add_argument("-o", "--output", required=True, help="a file, ending with .stablehlo")
    exported.set_defaults(run=_later("export"))


def _add_farm(commands: Any, output: Parser) -> None:
    """The farm's own commands."""
    of_farm = commands.add_parser("farm", help="upscale thousands of pictures, or long films, by many workers (Ray)")
    actions = of_farm.add_subparsers(required=True, metavar="ACTION")
    run = actions.add_parser(
        "run",
        parents=[output, computing_arguments(), compiling_arguments()],
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
        "--actors", type=told_alone(_parse_actors), default=0, metavar="N", help="workers (default: auto, all places)"
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
    add_picture_arguments(run)
    add_encoding_arguments(run)
    add_upscale_arguments(run)
    add_size_arguments(run)
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
