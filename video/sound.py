"""Sound between films and memory: samples of a film's, and samples as packets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .pyav import load_av

if TYPE_CHECKING:
    from av.container import InputContainer

_LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "quad", 5: "5.0", 6: "5.1", 8: "7.1"}
_BITS_A_SECOND = 128_000  # of a channel
_OPUS_RATE = 48000
_BEFORE = Fraction(1, 2)  # second: packets need those before them


@dataclass(frozen=True)
class Sound:
    """Samples [1, C, N] float32 of -1..1, `rate` of them a second."""

    samples: Tensor
    rate: int

    def part(self, start: Fraction, end: Fraction | None) -> Sound:
        """From `start` to `end` seconds, exact to the sample."""
        last = None if end is None else round(end * self.rate)
        return Sound(self.samples[..., round(start * self.rate) : last], self.rate)


def read_sound(file: Path | BytesIO, start: Fraction, end: Fraction | None) -> Sound | None:
    """What is heard in a film from `start` to `end` seconds of its file, exact to the sample: of its last track, as
    ComfyUI takes it. None where there is no sound that can be decoded."""
    av = load_av()
    with av.open(str(file) if isinstance(file, Path) else BytesIO(file.getvalue())) as container:
        tracks = [track for track in container.streams.audio if track.codec_context is not None]
        if not tracks:
            return None
        if start > 0:
            with suppress(av.error.FFmpegError):  # else from the beginning
                container.seek(int((start - _BEFORE) * av.time_base))
        pieces, rate, first = list[NDArray[np.float32]](), 0, Fraction(0)
        for time, samples, told in _decode(container, tracks[-1]):
            if end is not None and time >= end:
                break
            if not pieces:
                first, rate = time, told
            pieces.append(samples)
    if not pieces:
        return None
    samples = np.concatenate(pieces, axis=1)
    early = round((start - first) * rate)
    samples = samples[:, early:] if early >= 0 else np.pad(samples, ((0, 0), (-early, 0)))
    if end is not None:
        samples = samples[:, : round((end - start) * rate)]
    return Sound(torch.from_numpy(np.ascontiguousarray(samples))[None], rate)


def _decode(container: InputContainer, track: Any) -> Iterator[tuple[Fraction, NDArray[np.float32], int]]:
    """(seconds, samples [C, N], samples a second), piece by piece; what is damaged is left out."""
    av = load_av()
    to_floats = av.AudioResampler(format="fltp")
    following = Fraction(0)
    for packet in container.demux(track):
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            continue
        for frame in (made for given in frames for made in to_floats.resample(given)):
            time = following if frame.pts is None else frame.pts * frame.time_base
            following = time + Fraction(frame.samples, frame.sample_rate)
            yield time, frame.to_ndarray(), frame.sample_rate


def encode_sound(sound: Sound, codec: str) -> BytesIO:
    """A file, MP4, whose times are exact, with nothing but this sound, written by this encoder of FFmpeg's."""
    av = load_av()
    channels = sound.samples.shape[1]
    samples = sound.samples[0].detach().float().cpu().contiguous().numpy()
    if channels not in _LAYOUTS:
        samples, channels = samples[:2], 2
    file = BytesIO()
    with av.open(file, "w", format="mp4") as container:
        rate = _OPUS_RATE if codec == "libopus" else sound.rate
        stream = container.add_stream(codec, rate=rate, layout=_LAYOUTS[channels])
        stream.bit_rate = _BITS_A_SECOND * channels
        resampler = av.AudioResampler(
            format=stream.format.name, layout=_LAYOUTS[channels], rate=rate, frame_size=stream.frame_size or None
        )
        for start in range(0, samples.shape[1], sound.rate):
            piece = np.ascontiguousarray(samples[:, start : start + sound.rate])
            frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=_LAYOUTS[channels])
            frame.sample_rate, frame.pts, frame.time_base = sound.rate, start, Fraction(1, sound.rate)
            for made in resampler.resample(frame):
                container.mux(stream.encode(made))
        for made in resampler.resample(None):
            container.mux(stream.encode(made))
        container.mux(stream.encode())
    file.seek(0)
    return file
