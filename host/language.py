"""In which language ComfyUI's user reads, and what we have to say in it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from ..api.errors import CudaspeedError, first_line
from .settings import setting
from .translation import Catalogue

logger = logging.getLogger("cudaspeed")

ENGLISH = "en"
LANGUAGES = (ENGLISH, "zh")
"""What we can say things in."""
_LOCALES = Path(__file__).parent.parent / "locales"


def language() -> str:
    """One of `LANGUAGES`: what the user has set for our texts, else for all of ComfyUI.

    Where nothing is set the page goes by the browser's language, which nobody tells us: then English. Traditional
    Chinese ("zh-TW") is English, too, as the page itself falls back to it where it has no words: it is written and
    worded otherwise, and who would rather read simplified Chinese can set so.
    """
    chosen = setting("CUDAspeed.Language", "auto")
    if chosen not in LANGUAGES:
        chosen = setting("Comfy.Locale", ENGLISH)
    return chosen if chosen in LANGUAGES else ENGLISH


def in_users_language(text: str) -> str:
    """An English text of ours in the user's language; what is not known in it stays English."""
    spoken = language()
    catalogue = None if spoken == ENGLISH else _catalogue(spoken)
    return text if catalogue is None else catalogue.translated(text)


@contextmanager
def errors_in_users_language() -> Iterator[None]:
    """Within it, or in a function that it decorates, errors of ours that go up speak the user's language.

    They stay what they are, with their `args`, their cause and their traceback; the log gets the English, by which
    others can help. A `MemoryError` of ours has nothing but its `args` to say it in."""
    try:
        yield
    except CudaspeedError as error:
        if error.translation is None:
            error.translation = _translation_of(error, error.english)
        raise
    except MemoryError as error:
        told = _translation_of(error, str(error))
        error.args = error.args if told is None else (told,)
        raise


def _translation_of(error: BaseException, english: str) -> str | None:
    """What it says in the user's language, the log being told in English; None where that is the same."""
    told = in_users_language(english)
    if told == english:
        return None
    logger.error("%s: %s", type(error).__name__, english)
    return told


@cache
def _catalogue(spoken: str) -> Catalogue | None:
    """None where its file is missing or damaged, which is told once."""
    path = _LOCALES / spoken / "texts.json"
    try:
        return Catalogue(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        logger.warning("%s cannot be read (%s); texts stay English", path, first_line(error))
        return None
