"""The names of devices that torch does not compute on but an engine, from and to main memory. It takes no torch."""

from __future__ import annotations

XLA_NAMES = ("xla", "tpu")
XLA_PREFIX = "xla:"
_OPENVINO_PREFIX = "openvino:"


def is_xla(name: str) -> bool:
    """Whether that is the name of devices of XLA's: "xla" (those that JAX takes by itself), "tpu", "xla:cpu"."""
    return name in XLA_NAMES or name.startswith(XLA_PREFIX)


def is_an_engines(name: str) -> bool:
    """Whether it is one of XLA's, or of OpenVINO's: "openvino:GPU"."""
    return is_xla(name) or name.startswith(_OPENVINO_PREFIX)
