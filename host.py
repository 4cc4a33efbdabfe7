"""The only file that knows ComfyUI: which device, what memory, progress, interrupts, model folders.

Outside ComfyUI, where `comfy` cannot be imported, `run_context` gives a `StandaloneContext`, so that the nodes can be
called from a script or a test.
"""

# pyright: reportMissingImports=false
# ComfyUI's modules are there inside ComfyUI only, and no package brings them.

from __future__ import annotations

import gc
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from spandrel import ImageModelDescriptor

from .api.context import Resident, RunContext, Switches
from .api.errors import BadOptionError, MissingLibraryError, first_line
from .api.options import Precision
from .api.surroundings import inside_comfyui
from .devices.backends import automatic_kind, backend_of, has_own_memory
from .devices.pinned import PINNED
from .devices.vram import vram_of
from .memory import free_device_bytes, free_or_assumed_bytes, is_out_of_memory
from .models.loader import bundled_folder, find_models, load_model
from .storage.heap import TRIMMER
from .storage.location import compiled_folder

_FOLDER = "upscale_models"
_PARTS = 1000  # of a run, on ComfyUI's bar, whose end must not move
_UPDATE = "update ComfyUI to 0.8 or newer"
_PREVIEW = 512  # pixels along a side of what is shown on the way
_ON_DETACH = "on_detach_after"  # comfy.patcher_extension.CallbacksMP.ON_DETACH
# What ComfyUI's patcher notes on a module. On our copy of a module that has one, these tell of the original.
_PATCHER_NOTES = (
    "model_loaded_weight_memory",
    "lowvram_patch_counter",
    "model_lowvram",
    "current_weight_patches_uuid",
    "model_offload_buffer_memory",
)


@dataclass(frozen=True)
class VideoTypes:
    """ComfyUI's classes: of what goes along VIDEO wires, of such that are frames in memory, and of a film in parts."""

    video: type
    from_components: type
    components: type


def video_types() -> VideoTypes:
    """Raises `MissingLibraryError` outside ComfyUI, and in one that has no VIDEO, or none that tells its file."""
    try:
        from comfy_api.latest import Input, InputImpl, Types
    except ImportError as error:
        raise MissingLibraryError(f"ComfyUI's VIDEO is not there ({first_line(error)}); {_UPDATE}") from error
    if not hasattr(Input.Video, "get_stream_source"):
        raise MissingLibraryError(f"this ComfyUI's VIDEO does not tell its file; {_UPDATE}")
    return VideoTypes(Input.Video, InputImpl.VideoFromComponents, Types.VideoComponents)


def temporary_folder() -> Path:
    """Where ComfyUI keeps what it deletes when it starts anew."""
    if not inside_comfyui():
        return Path(tempfile.gettempdir())
    import folder_paths

    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def run_context(model: object) -> Iterator[HostContext]:
    """The host's context for one run of `model`, an UPSCALE_MODEL off the wire, on behalf of the node that is executing
    now."""
    yield ComfyContext(model) if inside_comfyui() else StandaloneContext()


class HostContext(RunContext, Protocol):
    """A `RunContext` that can also show pictures on the way."""

    def show(self, picture: NDArray[np.uint8]) -> None:
        """Show a finished picture [H, W, 3]."""


class StandaloneContext:
    """A `RunContext` on one torch device; results come back to main memory as float32.

    `device` is "auto" (the first CUDA, ROCm, XPU, NPU, MLU or MPS device, else the CPU) or a torch device's name.
    `on_progress(done, total)` is called after every tile batch, and during a long one with parts of tiles;
    `on_say(text)` in a run of more than a second, with what is going on. Both may be called on another thread, one at a
    time. So many GB as `reserve_vram` are left of the device's memory to other programs; by itself 0.4, on Windows 0.6
    or more. Raises `BadOptionError` for a device that this machine does not have, and for a reserve that is none.
    """

    output_device = torch.device("cpu")
    output_dtype = torch.float32
    switches = Switches()

    def __init__(
        self,
        device: str = "auto",
        on_progress: Callable[[float, int], None] | None = None,
        on_say: Callable[[str], None] | None = None,
        reserve_vram: float | None = None,
    ) -> None:
        self.device = _find_device(device)
        self.vram = vram_of(self.device, reserve_vram)
        self.cache_folder = compiled_folder()
        self._on_progress, self._on_say = on_progress, on_say
        self._backend = backend_of(self.device)
        if self._backend:
            self._backend.forget_peak(self.device)

    def make_resident(self, model: Resident, bytes_wanted: int) -> None:
        place = torch.empty(0, device=self.device).device  # "cuda" is the present one
        if model.residence != place:  # to look whether all of it is there takes milliseconds for deep models
            model.residence = None  # while it is neither here nor there
            model.module.to(place)
            model.residence = place

    def take_away(self, model: Resident) -> None:
        if model.residence is not None:
            model.residence = None
            model.module.to(self.vram.offload_device)

    def room_beside(self, model: Resident, needed: int) -> int | None:
        """Nobody makes way here."""
        free = free_device_bytes(self.device) if has_own_memory(self.device) else None
        return None if free is None else max(0, free - self.vram.reserve)

    def free_bytes(self) -> int:
        return max(0, free_or_assumed_bytes(self.device) - self.vram.reserve)

    def peak_bytes(self) -> int | None:
        return self._backend.peak_bytes(self.device) if self._backend else None

    def release_cached(self) -> None:
        gc.collect()  # what is dead, but for references among itself, may hold tensors
        if self._backend:
            self._backend.release_cached()

    def is_out_of_memory(self, error: BaseException) -> bool:
        return is_out_of_memory(error)

    def progress(self, done: float, total: int) -> None:
        if self._on_progress:
            self._on_progress(done, total)

    def say(self, text: str) -> None:
        if self._on_say:
            self._on_say(text)

    def show(self, picture: NDArray[np.uint8]) -> None:
        """Nobody looks."""

    def raise_if_interrupted(self) -> None:
        """Ctrl-C raises by itself."""


def _find_device(name: str) -> torch.device:
    """The device that `name` means. Raises `BadOptionError` for one that this machine does not have."""
    if name == "auto":
        # by our own table: torch.accelerator of torch 2.6 names what torch is built for, there or not
        return torch.device(automatic_kind())
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("it holds no values")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:  # of the last, where a kind wants a package of its own
        raise BadOptionError(
            f"device is {name!r:.200}, which this machine does not offer ({first_line(error):.200}); try auto or cpu"
        ) from error
    return device


class ComfyContext:
    """ComfyUI as a `RunContext`, for the execution of one node."""

    def __init__(self, model: object) -> None:
        from comfy import model_management, utils

        self._management = model_management
        self._utils = utils
        patcher = getattr(model, "patcher", None)  # ComfyUI 0.33 hangs one on the model, older ones do not
        self.device: torch.device = patcher.load_device if patcher else model_management.get_torch_device()
        self.output_device: torch.device = model_management.intermediate_device()
        old = not hasattr(model_management, "intermediate_dtype")
        self.output_dtype: torch.dtype = torch.float32 if old else model_management.intermediate_dtype()
        self.cache_folder = _comfyui_compiled_folder()
        self.switches = _switches(self.device)
        self._bar: Any = None

    def make_resident(self, model: Resident, bytes_wanted: int) -> None:
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

    def take_away(self, model: Resident) -> None:
        loaded = self._management.current_loaded_models
        for entry in [entry for entry in loaded if entry.model is model.residence]:
            entry.model_unload()  # which later would move what is not its any more
            loaded.remove(entry)
        model.residence = None

    def room_beside(self, model: Resident, needed: int) -> int | None:
        if not has_own_memory(self.device):
            return None
        management = self._management
        if self.free_bytes() < needed:
            own = [entry for entry in management.current_loaded_models if entry.model is model.residence]
            management.free_memory(needed + management.extra_reserved_memory(), self.device, keep_loaded=own)
        return self.free_bytes()

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
        try:
            from comfy_execution.utils import get_executing_context
            from server import PromptServer
        except ImportError:  # before 0.3.45 there was nowhere to say it
            return
        send = getattr(getattr(PromptServer, "instance", None), "send_progress_text", None)
        executing = get_executing_context()
        if send is not None and executing is not None:
            send(text, executing.node_id)

    def show(self, picture: NDArray[np.uint8]) -> None:
        """A picture [H, W, 3] on the node that is executing, beside its bar."""
        from PIL import Image

        if self._bar is None:
            self._bar = self._utils.ProgressBar(_PARTS)
        self._bar.update_absolute(self._bar.current, _PARTS, ("JPEG", Image.fromarray(picture), _PREVIEW))

    def raise_if_interrupted(self) -> None:
        self._management.throw_exception_if_processing_interrupted()


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


def _comfyui_compiled_folder() -> Path:
    """Where compiled models are kept: `CUDASPEED_CACHE_DIR`, else in ComfyUI's user directory; on Windows, where that
    may be open to other users and its owner does not tell, in this user's profile."""
    if os.environ.get("CUDASPEED_CACHE_DIR") or os.name == "nt":
        return compiled_folder()
    import folder_paths

    return Path(folder_paths.get_user_directory()).absolute() / "cudaspeed" / "compiled"


def offer_bundled_models() -> None:
    """Put the bundled models into the host's list of upscale models, core's loader included."""
    if inside_comfyui():
        import folder_paths

        folder_paths.add_model_folder_path(_FOLDER, str(bundled_folder()))


def upscale_model_names() -> list[str]:
    """The names that an upscale model loader offers."""
    if inside_comfyui():
        import folder_paths

        return folder_paths.get_filename_list(_FOLDER)
    return sorted(find_models())


def load_upscale_model(name: str) -> ImageModelDescriptor:
    """Load a model by one of `upscale_model_names`; in ComfyUI with the `.patcher` that core's own node needs.

    Raises `BadModelError` for a name that is gone and for a file that is no single-image model.
    """
    if not inside_comfyui():
        return load_model(find_models().get(name, Path(name)))
    import folder_paths
    from comfy import model_management
    from comfy.model_patcher import ModelPatcher

    descriptor = load_model(Path(folder_paths.get_full_path(_FOLDER, name) or name))
    descriptor.patcher = ModelPatcher(  # type: ignore[attr-defined]  # core adds it, spandrel does not know it
        descriptor.model,
        load_device=model_management.get_torch_device(),
        offload_device=model_management.unet_offload_device(),
    )
    return descriptor
