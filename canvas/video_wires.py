"""What comes along ComfyUI's VIDEO wires, as films; and a class of ours that its nodes take for a VIDEO."""

from __future__ import annotations

import functools
from dataclasses import replace
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from ..api.errors import BadFilmError
from ..host.executing import executing_node
from ..host.video_types import video_types
from ..models.loader import check_model
from ..video.clip import Clip
from ..video.pyav import load_av
from ..video.sound import Sound
from ..video.sources import ClipSource, FileSource
from ..video.window import Window
from .lazy_video import LazyVideo, Work, seconds

_FINEST_RATE = 1001  # as in 24000/1001 frames a second


def lazy_video(video: Any, work: Work) -> LazyVideo:
    """The host's `video`, with which this `work` is to be done for the node that is executing now: a VIDEO for any node
    of the host's. Raises `MissingLibraryError` where PyAV is missing or too old, or the host, `BadModelError`, and
    `BadFilmError` for what is no VIDEO."""
    check_model(work.model)
    load_av()
    types = video_types()
    if not isinstance(video, types.video):
        raise BadFilmError(f"video is a {type(video).__name__}; connect the output of Load Video or Create Video")
    work = replace(work, node=executing_node())
    if isinstance(video, types.from_components):
        return _kind(types.video)(ClipSource(_clip(video)), work)
    start, duration = getattr(video, "get_active_trim_window", lambda: (0, 0))()
    window = Window(seconds(start), seconds(duration) or None)
    file = video.get_stream_source()
    return _kind(types.video)(FileSource(file if isinstance(file, BytesIO) else Path(file)), work, window)


@functools.cache
def _kind(base: type) -> type[LazyVideo]:
    """A class that is the host's `base`, too, whatever else that asks for."""
    kind = type("UpscaledVideo", (LazyVideo, base), {"__module__": "cudaspeed"})
    kind.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]  # of a newer host's class, if there are more
    return kind


def _clip(video: Any) -> Clip:
    parts = video.get_components()
    images, alpha, audio = parts.images, getattr(parts, "alpha", None), parts.audio
    if images.shape[-1] not in (3, 4):
        raise BadFilmError(f"the film's frames have {images.shape[-1]} channels; make them RGB first")
    if alpha is not None and images.shape[-1] == 3:
        images = torch.cat([images, alpha.reshape(*images.shape[:3], 1).to(images)], dim=-1)
    sound = Sound(audio["waveform"][:1], int(audio["sample_rate"])) if audio else None
    bits = video.get_bit_depth() if hasattr(video, "get_bit_depth") else 8
    return Clip(images, Fraction(parts.frame_rate).limit_denominator(_FINEST_RATE), sound, bits)
