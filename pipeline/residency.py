"""Where a model's weights lie while it computes: all on the device, or, where they do not fit beside a tile, block by
block."""

from __future__ import annotations

import logging
import weakref

import torch

from ..api.context import RunContext
from ..api.errors import first_line
from ..models.runner import ModelRunner
from ..models.weight_units import can_be_cut
from ..models.weight_use import use_of_weights
from .offload import OffloadedWeights
from .streams import InTurnDevice, StreamDevice, stream_device

logger = logging.getLogger("cudaspeed")

COMES_IN_PARTS = "the model's weights do not fit beside a tile: they come layer by layer from main memory"
NOTHING_STAYS = "the model's weights come layer by layer from main memory, as --novram asks"

_MUCH_LESS = 3 / 4  # of what may be there: what is there is then not worth to be planned anew


class DoesNotFitError(MemoryError):
    """Not even the least of a model's weights fits the device beside a forward; says what is needed and free."""


def bring(context: RunContext, runner: ModelRunner, wanted: int, least: int | None = None) -> None:
    """Bring the weights of `runner` to the context's device, and ask for room for a forward of `wanted` bytes.

    Where they do not fit beside a forward of `least` bytes (None: `wanted`), they come block by block from then on, and
    no more of them stay than leaves room for `wanted` bytes: a tile as large as can be repays more than weights that
    stay, since all that comes has to come once for every tile. Raises `DoesNotFitError` where even the least does not
    fit that must be there at once.
    """
    least = wanted if least is None else least
    if isinstance(runner.offload, OffloadedWeights) and _place_of(runner.offload.device) != _place_of(context.device):
        _end_parts(context, runner, runner.offload)  # they came to another card
    room = _room(context, runner, least)
    weights_stay = context.switches.weights_stay
    whole = room is None or (weights_stay and runner.bytes + least <= room)
    offload = None if whole else _offload_of(context, runner)
    if room is None or offload is None:
        _bring_whole(context, runner, wanted)
        return
    limit = max(0, room - wanted) if weights_stay and wanted else 0
    if not (offload.on and limit * _MUCH_LESS <= offload.device_bytes <= limit):
        offload.keep_within(limit)
    if offload.device_bytes + least > room:
        needed, free = (offload.device_bytes + least) / 2**20, room / 2**20
        offload.release()
        raise DoesNotFitError(
            f"{context.device} has too little memory for {runner.info.name}, even layer by layer: about {needed:.0f} "
            f"MiB are needed for its largest layers and a small tile, and {free:.0f} are free; free memory (unload "
            "other models), use a smaller model, or set precision to fp16 or bf16"
        )
    context.make_resident(offload, wanted)


def bring_back(context: RunContext, runner: ModelRunner, wanted: int) -> None:
    """As `bring`, of weights that were brought in this run: in the same way."""
    context.make_resident(runner.offload or runner, wanted)


def told_of(context: RunContext, runner: ModelRunner) -> str | None:
    """What to tell of where the weights of `runner` lie; None where all of them are on the device."""
    if not isinstance(runner.offload, OffloadedWeights):
        return None
    told = COMES_IN_PARTS if context.switches.weights_stay else NOTHING_STAYS
    return f"{told} (VRAM state: {runner.offload.state})"


def _room(context: RunContext, runner: ModelRunner, least: int) -> int | None:
    """Bytes of the device for weights and a forward, with those that are there already; None: it does not matter."""
    free = context.room_beside(runner.offload or runner, max(0, runner.bytes + least - _held(context, runner)))
    return None if free is None else free + _held(context, runner)


def _held(context: RunContext, runner: ModelRunner) -> int:
    """Bytes that the weights of `runner` have of the device."""
    if isinstance(runner.offload, OffloadedWeights):
        return runner.offload.held_bytes
    return runner.bytes if runner.residence is not None and runner.device == _place_of(context.device) else 0


def _place_of(device: torch.device) -> torch.device:
    return torch.empty(0, device=device).device if device.index is None else device  # "cuda" is the present one


def _bring_whole(context: RunContext, runner: ModelRunner, wanted: int) -> None:
    if isinstance(runner.offload, OffloadedWeights):
        _end_parts(context, runner, runner.offload)
    context.make_resident(runner, wanted)


def _end_parts(context: RunContext, runner: ModelRunner, offload: OffloadedWeights) -> None:
    """All weights of `runner` are in main memory, whence they may be brought whole."""
    context.take_away(offload)
    offload.end()
    runner.come_in_parts(None, offload.plain)


def _offload_of(context: RunContext, runner: ModelRunner) -> OffloadedWeights | None:
    """What brings the weights of `runner` block by block; None where that cannot be done with them."""
    if isinstance(runner.offload, OffloadedWeights):
        return runner.offload
    if runner.in_one_piece:
        return None
    context.take_away(runner)
    with torch.inference_mode(False), torch.no_grad():
        runner.module.to("cpu")
    runner.in_one_piece = not can_be_cut(runner.module)
    if runner.in_one_piece:
        return None
    try:
        torch.empty(0).data = torch.empty(0, device=context.device)  # not of some devices that torch does not bring
        use = use_of_weights(runner.module, runner.forward, runner.info)
    except Exception as error:  # a network may fail in any way where it was not meant to be computed
        runner.in_one_piece = not context.is_out_of_memory(error)  # not tried again before every run
        logger.info("the weights of %s cannot come in parts: %s", runner.info.name, first_line(error))
        return None
    streams = stream_device(context.device) if context.switches.pinned_memory else None
    device: StreamDevice = streams or InTurnDevice(context.device)
    offload = OffloadedWeights(runner.module, runner.forward, use, device)
    known = weakref.ref(runner)
    offload.when_taken = lambda: (alive := known()) and alive.when_taken()
    runner.come_in_parts(offload, offload.forward)
    return offload
