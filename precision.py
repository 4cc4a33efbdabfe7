"""Which precision to run a model in: what the device is fast at, what the architecture supports, confirmed by a try."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from spandrel import ImageModelDescriptor
from torch import Tensor, nn

from .contracts import Precision, PrecisionChoice, RunContext
from .traits import is_convolutional, traits_of
from .working import Variant, WorkingModel

logger = logging.getLogger("cudaspeed")

# Automatic takes half precision only where a try stays this close to fp32; the picture is promised 50 dB.
_AUTOMATIC_DB = 53.0
_PROBE_SIDE = 32
_STEPS: tuple[Precision, ...] = ("fp16", "bf16", "fp32")


@dataclass(frozen=True)
class Choice:
    """The variant to run and, where it is not what was asked for, a warning that says so."""

    variant: Variant
    warning: str | None = None


class PrecisionChooser:
    """Remembers per model what worked, so that the try is made once."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[nn.Module, dict[tuple, Choice]] = weakref.WeakKeyDictionary()

    def choose(
        self, descriptor: ImageModelDescriptor, asked: PrecisionChoice, autocast: bool, context: RunContext
    ) -> Choice:
        """The first precision that runs, from what was asked for (or is fast here) up to fp32."""
        known = self._known.setdefault(descriptor.model, {})
        key = (asked, autocast, str(context.device))
        if key not in known:
            known[key] = _choose(descriptor, asked, autocast, context)
        return known[key]


def fast_precisions(device: torch.device) -> tuple[Precision, ...]:
    """The half precisions in which `device` computes natively and fast, best first."""
    if device.type == "cuda":
        major, _ = torch.cuda.get_device_capability(device)
        # GTX 16xx cards have the capability of Turing, but no tensor cores, and produce NaN in fp16 convolutions.
        crippled = "GTX 16" in torch.cuda.get_device_name(device)
        fp16: tuple[Precision, ...] = ("fp16",) if major >= 7 and not crippled else ()
        return (*fp16, "bf16") if major >= 8 else fp16
    if device.type == "cpu":
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # torch >= 2.11; older: not known, so no
        return ("bf16",) if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else ()
    return {"mps": ("fp16",), "xpu": ("bf16", "fp16")}.get(device.type, ())


def supported_precisions(descriptor: ImageModelDescriptor) -> tuple[Precision, ...]:
    """The precisions that spandrel declares for the model's architecture; fp32 always."""
    half: tuple[Precision, ...] = ("fp16",) if descriptor.supports_half else ()
    return (*half, "bf16", "fp32") if descriptor.supports_bfloat16 else (*half, "fp32")


def _choose(descriptor: ImageModelDescriptor, asked: PrecisionChoice, autocast: bool, context: RunContext) -> Choice:
    automatic = asked == "auto"
    if automatic:
        steps: tuple[Precision, ...] = (*fast_precisions(context.device), "fp32")
    else:
        steps = _STEPS[_STEPS.index(asked) :]
    supported = supported_precisions(descriptor)
    reasons: list[str] = []
    for precision in steps:
        reason = None
        if precision not in supported:
            reason = f"{descriptor.architecture.name} does not support it"
        elif precision == "fp16" and context.device.type == "cpu":
            reason = "CPUs emulate it, slowly"
        for variant in _layouts(descriptor, precision, autocast) if reason is None else ():
            if precision == "fp32" and not variant.channels_last:
                reason = None  # the last resort: nothing to compare with, nowhere to fall to
            else:
                reason = _fault(descriptor, variant, context, _AUTOMATIC_DB if automatic else None)
            if reason is None:
                warning = (
                    f"{asked} was asked for, {precision} is used: {reasons[0]}" if reasons and not automatic else None
                )
                return Choice(variant, warning)
        logger.debug("%s not used for %s: %s", precision, descriptor.architecture.name, reason)
        reasons.append(reason or "")
    raise AssertionError("fp32 in the plain layout is never refused")


def _layouts(descriptor: ImageModelDescriptor, precision: Precision, autocast: bool) -> Iterator[Variant]:
    """The variants of a precision to try: channels last first where it pays (1.5 to 2 times on convolutions)."""
    autocast = autocast and precision != "fp32"
    if is_convolutional(descriptor.model):
        yield Variant(precision, autocast, channels_last=True)
    yield Variant(precision, autocast, channels_last=False)


def _fault(
    descriptor: ImageModelDescriptor, variant: Variant, context: RunContext, least_db: float | None
) -> str | None:
    """Why `variant` must not be used, or None: a small forward has to run, be finite and, if asked, near fp32's."""
    probe = _probe_picture(descriptor)
    try:
        guess = _run(descriptor, variant, probe, context)
    except Exception as error:  # an architecture may fail in any way in a type it does not know; fp32 is next
        if context.is_out_of_memory(error):
            raise  # says nothing of the precision
        return f"it fails in it ({(str(error).splitlines() or [type(error).__name__])[0]})"
    if not bool(torch.isfinite(guess).all()):
        return "it gives non-finite values in it"
    if least_db is None:
        return None
    truth = _run(descriptor, Variant("fp32", False, False), probe, context)
    error = float((guess.clamp(0, 1) - truth.clamp(0, 1)).square().mean())
    if error > 10 ** (-least_db / 10):
        return f"it strays from fp32 (mean square error {error:.1e})"
    return None


def _run(descriptor: ImageModelDescriptor, variant: Variant, x: Tensor, context: RunContext) -> Tensor:
    working = WorkingModel(descriptor, variant)
    context.make_resident(working, 0)
    with torch.inference_mode():
        return working.forward(x.to(context.device)).float().cpu()


def _probe_picture(descriptor: ImageModelDescriptor) -> Tensor:
    """A fixed picture with what photographs have: shades from black to white, edges and fine texture, [1, C, h, w]."""
    traits = traits_of(descriptor)
    side = -(-max(_PROBE_SIDE, traits.minimum) // traits.grid) * traits.grid
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    shade = 0.5 + 0.5 * torch.sin(3 * x + 5 * y)
    edges = ((8 * x).floor() + (5 * y).floor()).remainder(2)
    texture = 0.5 + 0.5 * torch.sin(90 * x * y + 40 * x)
    planes = [0.6 * shade + 0.25 * edges + 0.15 * texture, 0.3 * shade + 0.7 * edges, 1 - shade]
    picture = torch.stack([planes[c % 3] for c in range(traits.in_channels)])
    return picture[None].clamp(0, 1)
