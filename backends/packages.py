"""The engines as they are installed: names, versions, the line that installs them. It imports none, nor torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version


@dataclass(frozen=True)
class Package:
    """What one installs for an engine: any of `distributions` has it, and all of `beside` must be there, too.

    `kind` is torch's name for the devices it computes on, "" for all; `good_for` says the same to people, and what it
    is expected to gain. `install` is the line that installs it, as a whole.
    """

    engine: str
    title: str
    distributions: tuple[str, ...]
    beside: tuple[str, ...]
    kind: str
    good_for: str
    install: str

    def version(self) -> str:
        """Of what is installed, "" where nothing is."""
        return next(filter(None, map(version_of, self.distributions)), "")

    def missing(self) -> str:
        """What is not installed, in a sentence with the line that installs it; "" where nothing is missing."""
        if not self.version():
            return f"{self.title} is not installed: {self.install}"
        absent = [name for name in self.beside if not version_of(name)]
        if absent:
            return f"{self.title} takes models as torch writes them with {' and '.join(absent)}: {self.install}"
        return ""


# torch.onnx.export(dynamo=True), the only way since torch 2.9, imports onnxscript in 2.6 to 2.11, which brings onnx.
_FOR_ONNX = ("onnxscript",)

AOTINDUCTOR = Package(
    "aotinductor",
    "AOTInductor",
    ("torch",),
    (),
    "",
    "every device that torch's compiler knows; it comes with torch",
    "pip install torch",
)
TENSORRT = Package(
    "tensorrt",
    "TensorRT",
    ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    _FOR_ONNX,
    "cuda",
    "NVIDIA's cards",
    "pip install tensorrt onnxscript",
)
TENSORRT_RTX = Package(
    "tensorrt-rtx",
    "TensorRT for RTX",
    ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
    _FOR_ONNX,
    "cuda",
    "NVIDIA's GeForce and RTX cards, in the place of TensorRT",
    "pip install tensorrt-rtx onnxscript",
)
PACKAGES = (AOTINDUCTOR, TENSORRT_RTX, TENSORRT)
"""In the order in which they are preferred, torch's own first."""


def version_of(distribution: str) -> str:
    """Of an installed distribution, "" where it is not there."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
