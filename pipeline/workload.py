"""What a run has to do, as far as memory and schedules depend on it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..api.context import RunContext
from ..api.model_info import ModelInfo
from ..devices.backends import has_own_memory
from ..images.channels import ChannelPlan, plan_channels
from ..models.trial import piece_sides
from ..tiling.pad import WrapPadding
from .frame_io import FrameSink, FrameSource

_LEAST_CONTRAST = 0.1  # standard deviation of a piece's values
_RGB = 3  # channels
_FLOAT = 4  # bytes
_TO_BLEED = 6  # frames that it takes to spread a frame's colours under what is transparent
_OVERLAPPING = 1.5  # as many pixels as the picture has the tiles that are not wasteful
OF_ONE_VALUE = 1 / 4  # of a frame's tiles, as many more of one value are kept at most
_TO_ENLARGE_ALPHA = 3  # planes of the result's size


class FrameBytes(NamedTuple):
    """Bytes that a frame takes where main memory is computed in, beside its result and the forwards: `held` while its
    tiles are computed; `before_and_after` more at most, when none is."""

    held: int
    before_and_after: int


def bytes_of_frame(
    size: tuple[int, int], channels: ChannelPlan, info: ModelInfo, padding: WrapPadding, whole: bool = False
) -> FrameBytes:
    """What a frame of `size` (height, width) takes: the pictures that its tiles are cut from and, unless the model's
    picture is the frame, those that it is made of. `whole`: the model's picture is kept beside the frame."""
    plane = math.prod(padding.padded_size(size)) * _FLOAT
    enlarged, pictures = plane * info.scale**2, channels.pictures_per_frame
    if channels.direct and not padding:
        return FrameBytes(plane * channels.model_in + enlarged * channels.model_out * whole, plane * channels.picture)
    held = plane * pictures * channels.model_in + enlarged * pictures * channels.model_out
    before = plane * channels.picture * (1 + _TO_BLEED * channels.has_alpha)
    return FrameBytes(held, max(before, enlarged * (channels.picture + _TO_ENLARGE_ALPHA * channels.has_alpha)))


@dataclass(frozen=True)
class Workload:
    """`frames` of `size` (height, width) through a model as `channels` say. The results take `result_bytes`, of which
    `held_bytes` on the device that computes are promised to them; `results_on_host`: they lie in main memory."""

    frames: int
    size: tuple[int, int]
    channels: ChannelPlan
    held_bytes: int
    results_on_host: bool
    result_bytes: int

    @property
    def pixels(self) -> int:
        """Input pixels that go through the model, overlaps not counted."""
        return self.frames * self.channels.pictures_per_frame * math.prod(self.size)

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame in float32."""
        return math.prod(self.size) * self.channels.picture * 4

    def bytes_to_keep_tiles(self, info: ModelInfo, padding: WrapPadding) -> int:
        """What it takes to keep what a frame's tiles are cut from, and what came of them, until the next one; tiles
        overlap. Some of one value are kept longer. 0 for a single frame, after which there is none."""
        if self.frames == 1:
            return 0
        values = info.in_channels + (1 + OF_ONE_VALUE) * info.out_channels * info.scale**2
        plane = math.prod(padding.padded_size(self.size)) * _FLOAT
        return int(_OVERLAPPING * plane * values * self.channels.pictures_per_frame)

    def bytes_to_make_frames(self, info: ModelInfo, padding: WrapPadding) -> int:
        """What it takes, on a device apart from the host, to make a frame of the model's pictures: these, what becomes
        of them, and the frame. 0 where there is nothing to make, or the results lie on the device anyway."""
        if not self.results_on_host or (self.channels.direct and not padding):
            return 0
        pixels = math.prod(padding.padded_size(self.size)) * info.scale**2
        return 3 * 4 * self.channels.pictures_per_frame * self.channels.model_out * pixels


def workload_of(source: FrameSource, sink: FrameSink, channels: ChannelPlan, context: RunContext) -> Workload:
    """All frames of `source`, into `sink`."""
    held = sink.held_bytes * _share_memory(sink.device, context.device)
    return Workload(len(source), source.size, channels, held, sink.device.type == "cpu", sink.held_bytes)


def workload_of_one(size: tuple[int, int], info: ModelInfo, context: RunContext) -> Workload:
    """One RGB picture, or latent, of `size` (height, width), and its result where the context wants it."""
    frame = _RGB if info.samples.limits else info.in_channels
    result = math.prod(size) * info.scale**2 * frame * context.output_dtype.itemsize
    held = result * _share_memory(context.output_device, context.device)
    channels = plan_channels(frame, info)
    return Workload(1, size, channels, held, context.output_device.type == "cpu", result)


def _share_memory(one: torch.device, other: torch.device) -> bool:
    """Whether what lies on the one leaves less for the other."""
    return one.type == other.type or not (has_own_memory(one) or has_own_memory(other))


def piece_of(source: FrameSource, channels: ChannelPlan, info: ModelInfo, most_pixels: int) -> Tensor | None:
    """A piece from the middle of the first frame, as the model sees it, [1, C, h, w] float32 on the CPU, of
    `most_pixels` if that is enough to compare by; None where the frame is too small for one, or shows too little."""
    height, width = piece_sides(info, most_pixels)
    top, left = (source.size[0] - height) // 2, (source.size[1] - width) // 2
    if top < 0 or left < 0:
        return None
    piece = source.frame(0)[top : top + height, left : left + width]
    seen = channels.to_model(piece)[:1].float().cpu().contiguous()
    return seen if float(seen.std()) >= _LEAST_CONTRAST * info.samples.deviation else None
