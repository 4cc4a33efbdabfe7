"""What a run takes of memory, item by item."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class MemoryUse:
    """Bytes that a run holds at once, by what for. `weights`: of the caller's model; `copy`: of ours, in the type that
    it computes in, or what lies on the device of it; `waiting`: all of it in main memory, where it does not all fit the
    device; `transformed`: convolutions' weights as Winograd's method takes them, in the copy's place of them;
    `compiled`: what was compiled of it, the weights in that; `forward`: all that one forward takes at most (memory.py);
    `scores`: pages of attention scores beside it; `graphs`: the pool of recorded CUDA graphs; `frames`: what tiles are
    cut from, and frames made of several pictures; `strips`: tiles being put together; `staging`: pinned buffers on the
    way to and from a device; `result`: the one full-size tensor. `apart`: those that lie in main memory while the
    device has memory of its own."""

    weights: int = 0
    copy: int = 0
    waiting: int = 0
    transformed: int = 0
    compiled: int = 0
    forward: int = 0
    scores: int = 0
    graphs: int = 0
    frames: int = 0
    strips: int = 0
    staging: int = 0
    result: int = 0
    apart: tuple[str, ...] = ()

    @property
    def items(self) -> dict[str, int]:
        """By name."""
        return {name: getattr(self, name) for name in _ITEMS}

    @property
    def total(self) -> int:
        """Wherever it lies."""
        return sum(self.items.values())

    @property
    def on_device(self) -> int:
        """Where the model computes, which may be main memory."""
        return sum(size for name, size in self.items.items() if name not in self.apart)

    def __str__(self) -> str:
        """For people: "1.24 GB"; with a device of its own "1.24 GB and 0.10 GB of main memory"."""
        on_device = self.on_device
        beside = self.total - on_device
        return gigabytes(on_device) + (f" and {gigabytes(beside)} of main memory" if beside else "")


_ITEMS = tuple(field.name for field in fields(MemoryUse) if field.name != "apart")


def gigabytes(count: int) -> str:
    """ "1.24 GB"; "310 MB" where it is less than one."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
