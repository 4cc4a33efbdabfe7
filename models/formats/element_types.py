"""The types that tensors' elements have in files, by torch's names, without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ElementType:
    """One of torch's number types: `torch.<name>`, whose elements have `itemsize` bytes."""

    name: str
    itemsize: int
    is_complex: bool = False

    def __str__(self) -> str:
        return f"torch.{self.name}"


_BYTES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2,
    "float8_e4m3fn": 1, "float8_e4m3fnuz": 1, "float8_e5m2": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
    "float4_e2m1fn_x2": 1,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1, "bool": 1,
    **{f"{kind}{bits}": 1 for kind in ("int", "uint") for bits in range(1, 8)},
    "qint32": 4, "qint8": 1, "quint8": 1, "quint4x2": 1, "quint2x4": 1,
    "bits16": 2, "bits8": 1, "bits4x2": 1, "bits2x4": 1, "bits1x8": 1,
}  # fmt: skip
_COMPLEX_BYTES = {"complex128": 16, "complex64": 8, "complex32": 4}
_OTHER_NAMES = {
    "double": "float64", "float": "float32", "half": "float16",
    "long": "int64", "int": "int32", "short": "int16",
    "cdouble": "complex128", "cfloat": "complex64", "chalf": "complex32", "bit": "uint1",
}  # fmt: skip

_OWN = {name: ElementType(name, size) for name, size in _BYTES.items()} | {
    name: ElementType(name, size, is_complex=True) for name, size in _COMPLEX_BYTES.items()
}
ELEMENT_TYPES = _OWN | {other: _OWN[name] for other, name in _OTHER_NAMES.items()}
"""All that torch 2.6 to 2.11 has, by all of its names; each torch has most of them."""
