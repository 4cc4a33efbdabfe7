"""Every error this pack raises on purpose, and the one line that any error comes down to.

They all say that they are of "cudaspeed", which they are by name: a host shows an error by its class's module, and
inside ComfyUI that would be the path of the pack's folder.
"""

from __future__ import annotations

from typing import Any


def first_line(error: BaseException) -> str:
    """What an error says, without the pages that compilers and loaders add; its type where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


class CudaspeedError(Exception):
    """Base of every error this pack raises on purpose. Its message names the value, the limit and what to change.

    `translation` is what it says in another language, where somebody who reads that one is shown it; by itself, and in
    its `args`, it is English.
    """

    translation: str | None = None

    def __str__(self) -> str:
        return self.english if self.translation is None else self.translation

    @property
    def english(self) -> str:
        return super().__str__()

    __module__ = "cudaspeed"

    def __init_subclass__(cls) -> None:
        cls.__module__ = CudaspeedError.__module__

    def __reduce__(self) -> tuple[Any, ...]:
        """As `pickle` and `copy` take it: they would look for the class in its module, which nobody need have imported
        by that name."""
        return _again, (type(self).__name__, self.args), vars(self) or None


class BadOptionError(CudaspeedError, ValueError):
    """An option or widget has a value that cannot be honoured."""


class BadImageError(CudaspeedError, ValueError):
    """The picture handed in cannot be upscaled: wrong shape, no pixels, non-finite values, an unreadable file."""


class BadFilmError(CudaspeedError, ValueError):
    """The file is no film, or has no frame that can be decoded."""


class BadModelError(CudaspeedError, ValueError):
    """The model file or object is not one that can upscale a single image, or is unsafe to load."""


class ModelFailedError(CudaspeedError, RuntimeError):
    """The model loaded well, and fails on this picture: it raises, or gives no numbers."""


class BrokenOutputError(ModelFailedError):
    """What the model gives is no picture, in fp32 and eager too: no other way to compute it helps."""


class MissingLibraryError(CudaspeedError, ImportError):
    """A library that only some of the work needs is missing, or too old."""


class OutputError(CudaspeedError, OSError):
    """The result cannot be written: no room, no permission, no such folder. Nothing half-written is left behind."""


class OutOfMemoryError(CudaspeedError, RuntimeError):
    """Even the smallest tile does not fit the device, or the result does not fit the memory it must be returned in."""


def _again(name: str, arguments: tuple[Any, ...]) -> CudaspeedError:
    """The error of that name; one that is defined elsewhere comes as what all of them are."""
    return globals().get(name, CudaspeedError)(*arguments)
