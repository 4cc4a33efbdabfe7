"""Which precisions there are for a model: what the device is fast at, and what the architecture supports."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from spandrel import ImageModelDescriptor

from ..api.options import Precision, PrecisionChoice
from ..devices.backends import backend_of
from .execution import ExecutionMode
from .info import is_convolutional

_STEPS: tuple[Precision, ...] = ("fp16", "bf16", "fp32")


@dataclass(frozen=True)
class Choice:
    """The mode to run and, where it is not what was asked for, a warning that says so."""

    mode: ExecutionMode
    warning: str | None = None


def fast_precisions(device: torch.device) -> tuple[Precision, ...]:
    """The half precisions in which `device` computes natively and fast, best first; none where that is not known."""
    backend = backend_of(device)
    return backend.fast_precisions(device) if backend else ()


def emulated(precision: Precision, device: torch.device) -> bool:
    """Whether `device` computes in `precision` only by way of another, so that it is of no use there."""
    return precision == "fp16" and device.type == "cpu"


def supported_precisions(descriptor: ImageModelDescriptor) -> tuple[Precision, ...]:
    """The precisions that spandrel declares for the model's architecture; fp32 always."""
    half: tuple[Precision, ...] = ("fp16",) if descriptor.supports_half else ()
    return (*half, "bf16", "fp32") if descriptor.supports_bfloat16 else (*half, "fp32")


def safer_precisions(precision: Precision, descriptor: ImageModelDescriptor, device: torch.device) -> list[Precision]:
    """What is more precise than `precision`, safest last, and suits the model and the device."""
    suit = {*_STEPS} if device.type == "cpu" else {"fp32", *fast_precisions(device)}
    more = _STEPS[_STEPS.index(precision) + 1 :]
    return [some for some in more if some in suit and not why_not(some, descriptor, device)]


def precisions_between(left: Precision, now: Precision) -> tuple[Precision, ...]:
    """`left`, and what is more precise, before `now`; none where they are one."""
    return _STEPS[_STEPS.index(left) : _STEPS.index(now)]


def why_not(precision: Precision, descriptor: ImageModelDescriptor, device: torch.device) -> str:
    """What is against `precision` from the beginning; "" where nothing is."""
    if precision not in supported_precisions(descriptor):
        return f"{descriptor.architecture.name} does not support it"
    return f"{device.type.upper()}s emulate it, slowly" if emulated(precision, device) else ""


def considered(
    asked: PrecisionChoice,
    descriptor: ImageModelDescriptor,
    device: torch.device,
    automatic: tuple[Precision, ...] | None = None,
) -> list[Precision]:
    """The precisions to run in, best first: what was `asked` for and all that is more precise, or, by itself, what is
    `automatic` (None: what is fast here, fp32 last)."""
    fast = (*fast_precisions(device), "fp32") if automatic is None else automatic
    steps = fast if asked == "auto" else _STEPS[_STEPS.index(asked) :]
    return [precision for precision in steps if not why_not(precision, descriptor, device)]


def usual_mode(precision: Precision, autocast: bool, descriptor: ImageModelDescriptor) -> ExecutionMode:
    """How torch computes the model in `precision`: convolutions in the order of pixels (channels last), which pays (1.5
    to 2 times)."""
    return ExecutionMode(precision, autocast and precision != "fp32", is_convolutional(descriptor.model))
