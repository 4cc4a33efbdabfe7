"""Which precision to run a model in: what the device is fast at, what the architecture supports, confirmed by a try."""

from __future__ import annotations

import logging
import weakref
from dataclasses import dataclass, replace

import torch
from spandrel import ImageModelDescriptor
from torch import Tensor, nn

from ..api.context import RunContext
from ..api.errors import CudaspeedError, ModelFailedError, first_line
from ..api.options import Precision, PrecisionChoice
from ..storage.fingerprint import versions_of
from .execution import ExecutionMode
from .info import is_convolutional, model_info
from .runner import RunnerCache

logger = logging.getLogger("cudaspeed")

# Automatic takes half precision only where a try stays this close to fp32; the picture is promised 50 dB.
_AUTOMATIC_DB = 53.0
_PROBE_SIDE = 32
_STEPS: tuple[Precision, ...] = ("fp16", "bf16", "fp32")


@dataclass(frozen=True)
class Choice:
    """The mode to run and, where it is not what was asked for, a warning that says so."""

    mode: ExecutionMode
    warning: str | None = None


class PrecisionChooser:
    """Chooses a precision per model, and remembers what worked, so that the tries are made once."""

    def __init__(self, copies: RunnerCache) -> None:
        self._copies = copies
        self._known: weakref.WeakKeyDictionary[nn.Module, dict[tuple, Choice]] = weakref.WeakKeyDictionary()

    def choose(
        self, descriptor: ImageModelDescriptor, asked: PrecisionChoice, autocast: bool, context: RunContext
    ) -> Choice:
        """The first precision that runs, from what was asked for (or is fast here) up to fp32.

        Raises `ModelFailedError` where the model fails in plain fp32, too, and the context's out-of-memory error, which
        says nothing of types.
        """
        known = self._known.setdefault(descriptor.model, {})
        key = asked, autocast, str(context.device), versions_of(descriptor.model)
        if key not in known:
            known[key] = _choose(_Trial(descriptor, context, self._copies), asked, autocast)
        return known[key]

    def retreat(
        self,
        descriptor: ImageModelDescriptor,
        asked: PrecisionChoice,
        autocast: bool,
        context: RunContext,
        error: Exception,
    ) -> Choice:
        """fp32, from now on, because what was chosen passed its try and then failed on a picture with `error`."""
        mode = _choose(_Trial(descriptor, context, self._copies), "fp32", False).mode
        reason = f"half precision failed on a picture and fp32 is used: {first_line(error)}"
        return self.remember(descriptor, asked, autocast, context, Choice(mode, reason))

    def safer(
        self, descriptor: ImageModelDescriptor, mode: ExecutionMode, asked: PrecisionChoice, context: RunContext
    ) -> list[ExecutionMode]:
        """The modes to trust more than `mode`: torch's own kernels, then what is more precise and suits the model
        and the device, up to fp32.

        Where precision is automatic, half types only if their try is as close to fp32 as automatic demands.
        """
        suit = {*_STEPS} if context.device.type == "cpu" else {"fp32", *fast_precisions(context.device)}
        trial = _Trial(descriptor, context, self._copies)
        found = [] if mode.kernels == "plain" else [replace(mode, kernels="plain")]
        for precision in _STEPS[_STEPS.index(mode.precision) + 1 :]:
            half = precision != "fp32"
            if precision not in suit or (half and not trial.judge(precision, mode.autocast, asked == "auto")[0]):
                continue
            found.append(replace(mode, precision=precision, autocast=mode.autocast and half, kernels="plain"))
        return found

    def remember(
        self,
        descriptor: ImageModelDescriptor,
        asked: PrecisionChoice,
        autocast: bool,
        context: RunContext,
        choice: Choice,
    ) -> Choice:
        """Choose so from now on when the same is asked for."""
        key = asked, autocast, str(context.device), versions_of(descriptor.model)
        self._known.setdefault(descriptor.model, {})[key] = choice
        return choice


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


def emulated(precision: Precision, device: torch.device) -> bool:
    """Whether `device` computes in `precision` only by way of another, so that it is of no use there."""
    return precision == "fp16" and device.type == "cpu"


def supported_precisions(descriptor: ImageModelDescriptor) -> tuple[Precision, ...]:
    """The precisions that spandrel declares for the model's architecture; fp32 always."""
    half: tuple[Precision, ...] = ("fp16",) if descriptor.supports_half else ()
    return (*half, "bf16", "fp32") if descriptor.supports_bfloat16 else (*half, "fp32")


def _choose(trial: _Trial, asked: PrecisionChoice, autocast: bool) -> Choice:
    automatic = asked == "auto"
    steps = (*fast_precisions(trial.device), "fp32") if automatic else _STEPS[_STEPS.index(asked) :]
    reasons: list[str] = []
    for precision in steps:
        mode, reason = trial.judge(precision, autocast and precision != "fp32", compare=automatic)
        if mode is not None:
            told = f"{asked} was asked for, {precision} is used: {reasons[0]}" if reasons and not automatic else None
            return Choice(mode, told)
        logger.debug("%s not used for %s: %s", precision, trial.architecture, reason)
        reasons.append(reason)
    raise AssertionError("fp32 is never refused")


class _Trial:
    """Small forwards of one model in the modes in question, each run once."""

    def __init__(self, descriptor: ImageModelDescriptor, context: RunContext, copies: RunnerCache) -> None:
        self._descriptor, self._context, self._copies = descriptor, context, copies
        self._picture = probe_picture(descriptor)
        self._convolutional = is_convolutional(descriptor.model)
        self._outputs: dict[Precision, tuple[ExecutionMode, Tensor]] = {}
        self.device, self.architecture = context.device, descriptor.architecture.name

    def judge(
        self, precision: Precision, autocast: bool, compare: bool
    ) -> tuple[ExecutionMode, str] | tuple[None, str]:
        """The mode to use for `precision`, or None and the reason against it. fp32 is accepted as it is.

        It has to be supported, to run, to give finite values and, with `compare`, to be close to fp32.
        """
        if precision not in supported_precisions(self._descriptor):
            return None, f"{self.architecture} does not support it"
        if emulated(precision, self.device):
            return None, f"{self.device.type.upper()}s emulate it, slowly"
        if precision == "fp32" and not self._convolutional:
            return ExecutionMode("fp32", autocast=False, channels_last=False), ""  # no layout to choose, nothing to try
        truth = self._run_in("fp32", False)[1] if compare else None
        try:
            mode, output = self._run_in(precision, autocast)
        except Exception as error:  # an architecture may fail in any way in a type it does not know
            if precision == "fp32" or self._context.is_out_of_memory(error):
                raise
            return None, f"it fails in it ({first_line(error)})"
        if precision == "fp32":
            return mode, ""
        if not bool(torch.isfinite(output).all()):
            return None, "it gives non-finite values in it"
        if truth is not None:
            error = float((output.clamp(0, 1) - truth.clamp(0, 1)).square().mean())
            if error > 10 ** (-_AUTOMATIC_DB / 10):
                return None, f"it strays from fp32 (mean square error {error:.1e})"
        return mode, ""

    def _run_in(self, precision: Precision, autocast: bool) -> tuple[ExecutionMode, Tensor]:
        """The first layout that runs, and its output: channels last where that pays (1.5 to 2 times, convolutions)."""
        if precision not in self._outputs:
            self._outputs[precision] = self._first_layout(precision, autocast)
        return self._outputs[precision]

    def _first_layout(self, precision: Precision, autocast: bool) -> tuple[ExecutionMode, Tensor]:
        plain = ExecutionMode(precision, autocast, channels_last=False)
        if self._convolutional:
            mode = ExecutionMode(precision, autocast, channels_last=True)
            try:
                return mode, self._run(mode)
            except Exception as error:  # views that want contiguous memory, mostly; the plain layout has them
                if self._context.is_out_of_memory(error):
                    raise
        return plain, self._run(plain)

    def _run(self, mode: ExecutionMode) -> Tensor:
        runner = self._copies.get(self._descriptor, mode)
        self._context.make_resident(runner, 0)
        try:
            with torch.inference_mode():
                return runner.forward(self._picture.to(self.device)).float().cpu()
        except Exception as error:
            ours = isinstance(error, CudaspeedError) or self._context.is_out_of_memory(error)
            if ours or mode.precision != "fp32":  # half types are only tried
                raise
            raise ModelFailedError(
                f"{self.architecture} fails on a tiny picture, in fp32 too ({first_line(error)}); choose another model"
            ) from error


def probe_picture(descriptor: ImageModelDescriptor) -> Tensor:
    """A fixed picture with what photographs have: shades from black to white, edges and fine texture, [1, C, h, w]."""
    info = model_info(descriptor)
    height = -(-max(_PROBE_SIDE, info.minimum) // info.alignment) * info.alignment
    # Not square where that can be: window models keep masks for the square size they were trained at, ready and of a
    # good type, and make others only for other sizes.
    width = height if info.square else height + info.alignment
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    shade = 0.5 + 0.5 * torch.sin(3 * x + 5 * y)
    edges = ((8 * x).floor() + (5 * y).floor()).remainder(2)
    texture = 0.5 + 0.5 * torch.sin(90 * x * y + 40 * x)
    planes = [0.6 * shade + 0.25 * edges + 0.15 * texture, 0.3 * shade + 0.7 * edges, 1 - shade]
    picture = torch.stack([planes[c % 3] for c in range(info.in_channels)])
    return picture[None].clamp(0, 1)
