"""From what was read on the command line to the options that the rest of the pack takes."""

from __future__ import annotations

import argparse
import re
from dataclasses import fields
from typing import TypeVar

from ..api.errors import BadOptionError
from ..api.options import UpscaleOptions
from ..images.limits import DecodeLimits
from ..images.naming import FolderOptions

_LONGEST_SIDE = 1 << 16  # pixels, of a picture to prepare for

Options = TypeVar("Options", UpscaleOptions, FolderOptions, DecodeLimits)


def options_of(kind: type[Options], arguments: argparse.Namespace) -> Options:
    """The options of the same names that a command has; the others are what they are by themselves."""
    names = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in vars(arguments).items() if name in names})


def parse_size(text: str) -> tuple[int, int]:
    """ "1920x1080" -> (height, width) in pixels. Raises `BadOptionError` for anything else."""
    found = re.fullmatch(r"([0-9]{1,9})[xX×]([0-9]{1,9})", text)
    if not found or not all(0 < int(side) <= _LONGEST_SIDE for side in found.groups()):
        raise BadOptionError(
            f"size is {text!r}; give width and height in pixels, 1 to {_LONGEST_SIDE} each, such as 1920x1080"
        )
    return int(found[2]), int(found[1])
