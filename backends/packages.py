"""The engines as they are installed: names, versions, the line that installs them. It imports none, nor torch."""

from __future__ import annotations

from dataclasses import dataclass

from ..api.installed import installed_version


@dataclass(frozen=True)
class Package:
    """What one installs for an engine: any of `distributions` has it, and all of `beside` must be there, too; `to_run`
    are those of them that running what was compiled elsewhere takes.

    `kind` is torch's name for the devices it computes on, "" for all; of NVIDIA's cards it has kernels for those of
    `capabilities`, or for all. `good_for` says the same to people. `install` is the line that installs all of it.
    """

    engine: str
    title: str
    distributions: tuple[str, ...]
    beside: tuple[str, ...]
    kind: str
    good_for: str
    install: str
    capabilities: tuple[tuple[int, int], ...] = ()
    to_run: tuple[str, ...] = ()

    def version(self) -> str:
        """Of what is installed, "" where nothing is."""
        return next(filter(None, map(installed_version, self.distributions)), "")

    def knows(self, kind: str, capability: tuple[int, int] | None) -> bool:
        """Whether it computes on devices of torch's `kind`; of NVIDIA's cards, on those of this `capability`. One that
        is not known (None) is taken for one that it has kernels for."""
        if self.kind and self.kind != kind:
            return False
        return kind != "cuda" or not self.capabilities or capability is None or capability in self.capabilities

    def missing(self) -> str:
        """What is not installed, in a sentence with the line that installs it; "" where nothing is missing."""
        absent = [name for name in self.beside if not installed_version(name)]
        if self.version() and absent:
            return f"{self.title} takes models as torch writes them with {' and '.join(absent)}: {self.install}"
        return self.missing_to_run()

    def missing_to_run(self) -> str:
        """The same of what it takes to run what was compiled elsewhere."""
        if not self.version():
            return f"{self.title} is not installed: {self.install}"
        absent = [name for name in self.to_run if not installed_version(name)]
        if absent:
            return f"{self.title} reads programs with {' and '.join(absent)}: {self.install}"
        return ""


# torch.onnx.export(dynamo=True), the only way since torch 2.9, imports onnxscript in 2.6 to 2.11, which brings onnx.
_FOR_ONNX = ("onnxscript",)

AOTINDUCTOR = Package(
    "aotinductor",
    "AOTInductor",
    ("torch",),
    (),
    "",
    "what torch computes on; it comes with torch, and needs a C++ compiler, on CUDA Triton",
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
    "NVIDIA's GeForce and RTX cards since Turing",
    "pip install tensorrt-rtx onnxscript",
    # `ComputeCapability` of 1.7; data centre cards since Hopper are TensorRT's
    ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1)),
)
OPENVINO = Package(
    "openvino",
    "OpenVINO",
    ("openvino",),
    (),
    "cpu",
    "processors",
    "pip install openvino",
)
XLA = Package(
    "xla",
    "JAX",
    ("jax",),
    ("torchax", "flatbuffers"),
    "cpu",
    "Google's TPUs, where it is asked for by --device tpu or xla",
    "pip install jax==0.10.2 torchax==0.0.13 flatbuffers (with torch 2.9 to 2.11)",
    to_run=("flatbuffers",),
)
PACKAGES = (AOTINDUCTOR, TENSORRT_RTX, TENSORRT, OPENVINO, XLA)
"""In the order in which they are preferred, torch's own first, and last what is never chosen by itself."""
