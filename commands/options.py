"""From what was read on the command line to the options that the rest of the pack takes."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import TypeVar

from ..api.options import UpscaleOptions
from ..images.limits import DecodeLimits
from ..images.naming import FolderOptions

Options = TypeVar("Options", UpscaleOptions, FolderOptions, DecodeLimits)


def options_of(kind: type[Options], arguments: argparse.Namespace) -> Options:
    """The options of the same names that a command has; the others are what they are by themselves."""
    names = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in vars(arguments).items() if name in names})
