"""The encoders that films can be written by, as far as they can be known without opening one."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..api.errors import BadOptionError

CONTAINERS = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov", ".webm": "webm"}
"""Endings of films that can be written, and FFmpeg's names of their containers."""


@dataclass(frozen=True)
class Encoder:
    """An encoder of FFmpeg's, by its `name`.

    `options` are those it is opened with; `crf_option` is what it calls the number for quality, of which `crf` is the
    default here and `most_crf` the largest; "": it has none. `formats` are the pixel formats that we give it, of those
    that it takes, by preference. `sides` are the least and the most pixels along a side. With `even`, sides whose
    chroma is halved must be even; one that `reorders` has frames that are decoded before others are shown. One
    that `writes_aspect` tells the shape of pixels itself, where the container does not. It can go into `containers`, by
    their endings.
    """

    name: str
    formats: tuple[str, ...]
    options: dict[str, str] = field(default_factory=dict)
    crf_option: str = "crf"
    crf: int = 0
    most_crf: int = 51
    sides: tuple[int, int] = (1, 65535)
    even: bool = False
    reorders: bool = False
    writes_aspect: bool = False
    containers: tuple[str, ...] = (".mp4", ".mkv", ".mov")

    def check_crf(self, crf: int) -> None:
        """Raise `BadOptionError` unless it can have this quality."""
        if not self.crf_option:
            raise BadOptionError(f"crf is {crf}, and {self.name} has no such number; leave it out")
        if not 0 <= crf <= self.most_crf:
            raise BadOptionError(f"crf is {crf}; {self.name} takes 0 (best) to {self.most_crf} (default: {self.crf})")

    def check_container(self, ending: str) -> None:
        """Raise `BadOptionError` unless it goes into films with this ending."""
        if ending not in self.containers:
            fitting = [name for name, other in ENCODERS.items() if ending in other.containers]
            raise BadOptionError(
                f"{self.name} does not go into {ending} films, but into {', '.join(self.containers)}; "
                f"into {ending} go {', '.join(fitting)}"
            )

    def opened_with(self, crf: int | None) -> dict[str, str]:
        """Its options, with this quality, or the default."""
        quality = {self.crf_option: str(self.crf if crf is None else crf)} if self.crf_option else {}
        return {**self.options, **quality}


_PLANAR = ("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le")
_ALPHA = ("yuva420p", "yuva422p", "yuva444p", "yuva420p10le", "yuva422p10le", "yuva444p10le")
_NVENC = {"preset": "p6", "tune": "hq", "rc": "vbr", "b": "0"}

ENCODERS: dict[str, Encoder] = {
    encoder.name: encoder
    for encoder in (
        Encoder(
            "libx264",
            _PLANAR,
            {"preset": "slow"},
            crf=17,
            sides=(2, 16384),
            even=True,
            reorders=True,
            writes_aspect=True,
        ),
        Encoder(
            "libx265",
            _PLANAR,
            {"preset": "slow"},
            crf=18,
            sides=(16, 65535),
            even=True,
            reorders=True,
            writes_aspect=True,
        ),
        Encoder(
            "libsvtav1",
            ("yuv420p", "yuv420p10le"),
            {"preset": "5"},
            crf=20,
            most_crf=63,
            sides=(4, 16384),
            containers=(".mp4", ".mkv", ".webm"),
        ),
        Encoder(
            "libvpx-vp9",
            (*_PLANAR, "yuva420p", "gbrp"),
            {"b": "0", "deadline": "good", "cpu-used": "2", "row-mt": "1"},
            crf=18,
            most_crf=63,
            containers=(".webm", ".mkv", ".mp4"),
        ),
        Encoder(
            "prores_ks",
            ("yuv422p10le", "yuv444p10le", "yuva444p10le"),
            {"vendor": "apl0"},
            crf_option="",
            containers=(".mov", ".mkv"),
        ),
        Encoder(
            "ffv1",
            (*_PLANAR, *_ALPHA, "bgr0", "bgra", "gbrp10le", "gbrap10le"),
            {"level": "3", "slicecrc": "1"},
            crf_option="",
            containers=(".mkv",),
        ),
        Encoder(
            "h264_nvenc",
            ("yuv420p", "yuv444p"),
            _NVENC,
            "cq",
            19,
            sides=(160, 4096),
            even=True,
            reorders=True,
            writes_aspect=True,
        ),
        Encoder(
            "hevc_nvenc",
            ("yuv420p", "yuv444p", "p010le", "yuv444p16le"),
            _NVENC,
            "cq",
            20,
            sides=(160, 8192),
            even=True,
            reorders=True,
            writes_aspect=True,
        ),
        Encoder(
            "av1_nvenc",
            ("yuv420p", "p010le"),
            _NVENC,
            "cq",
            24,
            sides=(160, 8192),
            even=True,
            containers=(".mp4", ".mkv", ".webm"),
        ),
    )
}
USUAL = {".webm": "libvpx-vp9"}
"""The encoder that a container is written by where none is asked for; libx264 in the others."""


def usual_encoder(ending: str) -> Encoder:
    """By the ending of the file's name."""
    return ENCODERS[USUAL.get(ending, "libx264")]
