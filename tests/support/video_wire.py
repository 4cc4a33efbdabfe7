"""What our nodes ask of ComfyUI's VIDEO, in a few lines, by ComfyUI 0.33's comfy_api/latest; and as 0.8 has it."""

from __future__ import annotations

import io
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


class VideoInput(ABC):
    @abstractmethod
    def get_components(self) -> Any: ...

    @abstractmethod
    def save_to(self, path: Any, format: Any = None, codec: Any = None, metadata: Any = None) -> None: ...  # noqa: A002

    @abstractmethod
    def as_trimmed(self, start_time: Any = None, duration: Any = None, strict_duration: bool = False) -> Any: ...

    @abstractmethod
    def of_a_newer_host(self) -> None:
        """What none of our classes knows."""

    def get_stream_source(self) -> Any:
        return NotImplemented


class VideoFromFile(VideoInput):
    def __init__(self, file: str | io.BytesIO, start_time: float = 0, duration: float = 0) -> None:
        self._file, self._window = file, (start_time, duration)

    def get_stream_source(self) -> str | io.BytesIO:
        return self._file

    def get_active_trim_window(self) -> tuple[float, float]:
        return self._window


VideoFromFile.__abstractmethods__ = frozenset()


@dataclass
class VideoComponents:
    images: Any
    frame_rate: Fraction
    audio: Any = None
    metadata: Any = None
    alpha: Any = None


class VideoFromComponents(VideoInput):
    def __init__(self, components: VideoComponents, bit_depth: int = 8) -> None:
        self._components, self._bits = components, bit_depth

    def get_components(self) -> VideoComponents:
        return self._components

    def get_bit_depth(self) -> int:
        return self._bits


VideoFromComponents.__abstractmethods__ = frozenset()


@dataclass
class OldComponents:
    images: Any
    frame_rate: Fraction
    audio: Any = None
    metadata: Any = None


def enter(monkeypatch: pytest.MonkeyPatch, old: bool = False) -> None:
    """Make it what `comfy_api.latest` is."""
    latest = ModuleType("comfy_api.latest")
    vars(latest).update(
        Input=SimpleNamespace(Video=VideoInput),
        InputImpl=SimpleNamespace(VideoFromComponents=VideoFromComponents),
        Types=SimpleNamespace(VideoComponents=OldComponents if old else VideoComponents),
    )
    monkeypatch.setitem(sys.modules, "comfy_api", ModuleType("comfy_api"))
    monkeypatch.setitem(sys.modules, "comfy_api.latest", latest)
