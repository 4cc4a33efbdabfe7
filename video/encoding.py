"""A film's frames on their way into packets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream


class Encoding:
    """Frames that `stream` encodes, one by one, into packets with their times. Used by one thread."""

    def __init__(self, stream: VideoStream) -> None:
        self._stream, self._frames = stream, 0

    def packets_of(self, frame: Any) -> list[Packet[Any]]:
        """The packets that are done when `frame` has come, of it or of frames before it."""
        self._frames += 1
        return self._stream.encode(frame)

    def rest(self) -> list[Packet[Any]]:
        """The packets of all that was not done yet; no frame comes after this."""
        packets = self._stream.encode()
        if self._stream.codec_context.codec.name == "libx265" and self._frames <= 2:
            # It has counted back from a third frame, which never came, with what lay in its memory by chance
            # (https://github.com/Multicorewareinc/x265/issues/781). So few frames are decoded in their order.
            for packet in packets:
                packet.dts = packet.pts
        return packets
