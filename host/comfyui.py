"""ComfyUI around a run: device, memory, progress, interrupts, and what it was started with."""

# pyright: reportMissingImports=false
# ComfyUI's modules are there inside ComfyUI only, and no package brings them.

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..api.context import Resident, RunContext, Switches
from ..api.options import Precision
from ..devices.backends import has_own_memory
from ..devices.engine_names import is_an_engines
from ..devices.named import devices_named
from ..devices.pinned import PINNED
from ..memory import is_out_of_memory
from ..storage.heap import TRIMMER
from ..storage.location import compiled_folder
from .executing import executing_node
from .language import in_users_language
from .prompt_server import prompt_server
from .settings import setting

_PARTS = 1000  # of a run, on ComfyUI's bar, whose end must not move
_PREVIEW = 512  # pixels along a side, at most, of what is shown on the way
_ON_DETACH = "on_detach_after"  # comfy.patcher_extension.CallbacksMP.ON_DETACH
# What ComfyUI's patcher notes on a module. On our copy of a module that has one, these tell of the original.
_PATCHER_NOTES = (
    "model_loaded_weight_memory",
    "lowvram_patch_counter",
    "model_lowvram",
    "current_weight_patches_uuid",
    "model_offload_buffer_memory",
)


# Its lists of models are for one thread, and devices that share a run have one each.
_ONE_AT_A_TIME = threading.RLock()


class ComfyContext:
    """ComfyUI as a `RunContext`, for the execution of one node, on `device`; None: on the one that ComfyUI has for the
    model."""

    texts_stay = alone = True
    peers: tuple[RunContext, ...] = ()

    def __init__(self, model: object, device: torch.device | None = None) -> None:
        from comfy import model_management, utils

        self._management = model_management
        self._utils = utils
        patcher = getattr(model, "patcher", None)  # ComfyUI 0.33 hangs one on the model, older ones do not
        usual: torch.device = patcher.load_device if patcher else model_management.get_torch_device()
        self.device = device or usual
        self.output_device: torch.device = model_management.intermediate_device()
        old = not hasattr(model_management, "intermediate_dtype")
        self.output_dtype: torch.dtype = torch.float32 if old else model_management.intermediate_dtype()
        self.cache_folder = comfyui_compiled_folder()
        self.switches = _switches(self.device)
        self.looked_at = _has_page() and setting("CUDAspeed.Preview", True)
        self._bar: Any = None

    @classmethod
    def of_several(cls, model: object, devices: str) -> ComfyContext:
        """Of the first of the `devices`, whose peers are the others, or of an engine's. Raises what `devices_named`
        does."""
        context = cls(model)
        if is_an_engines(devices.strip()):
            context = cls(model, torch.device("cpu"))
            context.switches = replace(context.switches, engine=devices.strip())
        elif devices.strip():
            context, *others = [cls(model, device) for device in devices_named(devices, context.device)]
            context.peers = tuple(others)
        return context

    def make_resident(self, model: Resident, bytes_wanted: int) -> None:
        with _ONE_AT_A_TIME:
            self._load(model, bytes_wanted)

    def take_away(self, model: Resident) -> None:
        with _ONE_AT_A_TIME:
            loaded = self._management.current_loaded_models
            for entry in [entry for entry in loaded if entry.model is model.residence]:
                entry.model_unload()  # which later would move what is not its any more
                loaded.remove(entry)
        model.residence = None

    def room_beside(self, model: Resident, needed: int) -> int | None:
        if not has_own_memory(self.device):
            return None
        with _ONE_AT_A_TIME:
            management = self._management
            if self.free_bytes() < needed:
                own = [entry for entry in management.current_loaded_models if entry.model is model.residence]
                management.free_memory(needed + management.extra_reserved_memory(), self.device, keep_loaded=own)
            return self.free_bytes()

    def _load(self, model: Resident, bytes_wanted: int) -> None:
        from comfy.model_patcher import ModelPatcher

        patcher: Any = model.residence
        if not isinstance(patcher, ModelPatcher) or patcher.load_device != self.device:
            notes = vars(model.module)
            for name in _PATCHER_NOTES:
                notes.pop(name, None)
            if "device" in notes:  # the patcher's, or the architecture's own
                notes["device"] = torch.device("cpu")
            # A plain ModelPatcher, not the host's dynamic one, which swaps parameters under compiled code.
            offload_device = self._management.unet_offload_device()
            patcher = ModelPatcher(model.module, load_device=self.device, offload_device=offload_device)
            if hasattr(patcher, "add_callback"):  # since December 2024
                patcher.add_callback(_ON_DETACH, _release(model))
            model.residence = patcher
        total = self._management.get_total_memory(self.device)
        self._management.load_models_gpu([patcher], memory_required=min(bytes_wanted, total), force_full_load=True)
        if self._management.vram_state is self._management.VRAMState.NO_VRAM:  # which loads layers of its own only
            patcher.load(self.device, full_load=True)

    def free_bytes(self) -> int:
        reserved = 0 if self.device.type == "cpu" else self._management.extra_reserved_memory()
        return max(0, int(self._management.get_free_memory(self.device) - reserved))

    def peak_bytes(self) -> int | None:
        return None  # the process-wide statistics belong to everyone in it

    def release_cached(self) -> None:
        self._management.soft_empty_cache()

    def is_out_of_memory(self, error: BaseException) -> bool:
        test = getattr(self._management, "is_oom", None)  # since 0.33; it also knows asynchronous CUDA errors
        return is_out_of_memory(error) or (test is not None and test(error))

    def progress(self, done: float, total: int) -> None:
        if self._bar is None:
            self._bar = self._utils.ProgressBar(_PARTS)
        self._bar.update_absolute(int(_PARTS * done / total))

    def say(self, text: str) -> None:
        say_on_node(text)

    def show(self, picture: NDArray[np.uint8]) -> None:
        """A picture [H, W, 3] on the node that is executing, beside its bar."""
        from PIL import Image

        if self._bar is None:
            self._bar = self._utils.ProgressBar(_PARTS)
        self._bar.update_absolute(self._bar.current, _PARTS, ("JPEG", Image.fromarray(picture), _PREVIEW))

    def raise_if_interrupted(self) -> None:
        self._management.throw_exception_if_processing_interrupted()


def say_on_node(text: str) -> None:
    """Show `text` on the node that is executing now, until it says something else. Nothing where no node is, and before
    ComfyUI 0.3.45, which had no place for it."""
    send, node = getattr(prompt_server(), "send_progress_text", None), executing_node()
    if send is not None and node is not None:
        # a file's name may hold what UTF-8 cannot write, and ComfyUI writes it
        told = in_users_language(text).encode("utf-8", "replace").decode("utf-8")
        send(told, node)


def _has_page() -> bool:
    """Whether the prompt that runs now was sent by a page, and not by a program that only asks for what came of it."""
    return getattr(prompt_server(), "client_id", None) is not None


def _release(model: Resident) -> Callable[..., None]:
    """What to call when the host unloads `model`, which it must not keep alive."""
    known = weakref.ref(model)

    def release(patcher: Any, unloaded: bool = True) -> None:
        alive = known()
        if alive is not None and unloaded:  # the host also detaches what it is about to load again
            alive.release()
            PINNED.clear()
            # From a card its weights went to main memory, whence they come back. Else they go, but not now: the host is
            # in the midst of its list of models, and both the patcher and the model must live on until it is done.
            nowhere = patcher.load_device == patcher.offload_device
            TRIMMER.soon(partial(_let_go, known) if nowhere else None)

    return release


def _let_go(known: weakref.ref[Resident]) -> None:
    """Let go of a model's weights, unless the host has loaded it again."""
    from comfy import model_management

    model = known()
    loaded = [entry.model for entry in [*model_management.current_loaded_models]]
    if model is not None and model.residence not in loaded:
        model.release(weights=True)


def _switches(device: torch.device) -> Switches:
    """What ComfyUI was started with, as far as it means us. An older one lacks some of its switches."""
    from comfy.cli_args import args

    def given(name: str) -> bool:
        return bool(getattr(args, name, False))

    precisions: tuple[Precision, ...] | None = None
    if given("force_fp32"):
        precisions = ("fp32",)
    elif given("force_fp16") and device.type != "cpu":  # where ComfyUI itself does not do it
        precisions = ("fp16", "fp32")
    return Switches(
        precisions=precisions,
        torch_attention=not (given("use_split_cross_attention") or given("use_quad_cross_attention")),
        cuda_graphs=not given("disable_cuda_graphs"),
        pinned_memory=not given("disable_pinned_memory"),
        weights_stay=not given("novram"),
    )


def comfyui_compiled_folder() -> Path:
    """Where compiled models are kept: `CUDASPEED_CACHE_DIR`, else in ComfyUI's user directory; on Windows, where that
    may be open to other users and its owner does not tell, in this user's profile."""
    if os.environ.get("CUDASPEED_CACHE_DIR") or os.name == "nt":
        return compiled_folder()
    import folder_paths

    return Path(folder_paths.get_user_directory()).absolute() / "cudaspeed" / "compiled"
