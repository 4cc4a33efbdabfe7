"""From what was read on the command line to the options that the rest of the pack takes."""

from __future__ import annotations

import argparse
import re
from dataclasses import fields, replace
from typing import TypeVar

from ..api.errors import BadOptionError
from ..api.options import UpscaleOptions
from ..api.resize import Resize
from ..images.limits import DecodeLimits
from ..images.naming import FolderOptions
from ..latents.options import LatentSize
from ..scaleout.cluster import FarmOptions
from ..video.options import VideoOptions

_LONGEST_SIDE = 1 << 16  # pixels, of a picture to prepare for

Options = TypeVar("Options", UpscaleOptions, FolderOptions, DecodeLimits, VideoOptions, LatentSize, FarmOptions)


def options_of(kind: type[Options], arguments: argparse.Namespace) -> Options:
    """The options of the same names that a command has; the others are what they are by themselves."""
    names = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in vars(arguments).items() if name in names})


def upscale_options(arguments: argparse.Namespace) -> UpscaleOptions:
    """Those of `cudaspeed upscale` and `video`, with the size that results are wanted in."""
    width, height = parse_target(arguments.target) if arguments.target is not None else (0, 0)
    resize = Resize(arguments.scale_by, width, height, arguments.fit, arguments.resample)
    return replace(options_of(UpscaleOptions, arguments), resize=resize)


def parse_target(text: str) -> tuple[int, int]:
    """ "3840x2160" -> (width, height) in pixels; "3840x" and "x2160" -> one of them, and 0. Raises `BadOptionError` for
    anything else."""
    found = re.fullmatch(r"([0-9]{0,9})[xX×]([0-9]{0,9})", text)
    if not found or not any(found.groups()):
        raise BadOptionError(
            f"resize is {text!r}; give width and height in pixels, such as 3840x2160, or one of them: 3840x, x2160"
        )
    return int(found[1] or 0), int(found[2] or 0)


def parse_size(text: str, name: str = "size") -> tuple[int, int]:
    """ "1920x1080" -> (height, width) in pixels. Raises `BadOptionError` for anything else, as of the option `name`."""
    found = re.fullmatch(r"([0-9]{1,9})[xX×]([0-9]{1,9})", text)
    if not found or not all(0 < int(side) <= _LONGEST_SIDE for side in found.groups()):
        raise BadOptionError(
            f"{name} is {text!r}; give width and height in pixels, 1 to {_LONGEST_SIDE} each, such as 1920x1080"
        )
    return int(found[2]), int(found[1])
