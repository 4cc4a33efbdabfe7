"""What our host file asks of ComfyUI, in a few lines: its switches, and models loaded, kept and unloaded as it does.

By ComfyUI 0.33's comfy/cli_args.py, model_management.py and model_patcher.py, as far as they are asked here. There is
a card only by name: what is on it lies in main memory.
"""

from __future__ import annotations

import enum
import os
import sys
import weakref
from collections.abc import Callable
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

GIGABYTE = 1 << 30


class VRAMState(enum.Enum):
    DISABLED = 0
    NO_VRAM = 1
    LOW_VRAM = 2
    NORMAL_VRAM = 3
    HIGH_VRAM = 4


class ModelPatcher:
    """A model that the host loads. `loaded` are the names of the layers that are on the card."""

    def __init__(self, model: nn.Module, load_device: torch.device, offload_device: torch.device) -> None:
        self.model, self.load_device, self.offload_device = model, load_device, offload_device
        self.loaded: set[str] = set()
        self._on_detach: list[Callable[..., None]] = []

    def add_callback(self, kind: str, callback: Callable[..., None]) -> None:
        assert kind == "on_detach_after"
        self._on_detach.append(callback)

    def load(self, device_to: torch.device, full_load: bool = False) -> None:
        assert device_to == self.load_device
        self.loaded |= {name for name, _ in self.model.named_modules()} if full_load else set()

    def detach(self, unpatch_all: bool = True) -> None:
        self.loaded -= self.loaded if self.offload_device != self.load_device else set()
        for callback in self._on_detach:
            callback(self, unpatch_all)


class LoadedModel:
    """A place in the host's list of loaded models, which keeps none of them alive."""

    def __init__(self, patcher: ModelPatcher, cleanup: Callable[[], None]) -> None:
        self._patcher, self.real_model = weakref.ref(patcher), weakref.ref(patcher.model)
        self._finalizer = weakref.finalize(patcher.model, cleanup)

    @property
    def model(self) -> ModelPatcher:
        return self._patcher()  # type: ignore[return-value]  # as the host has it

    def model_unload(self) -> None:
        self.model.detach()
        self._finalizer.detach()


class ProgressBar:
    """Tells what it is told: (value, total, preview)."""

    def __init__(self, told: list[tuple[int, int, Any]], total: int) -> None:
        self._told, self.total, self.current = told, total, 0

    def update_absolute(self, value: int, total: int | None = None, preview: Any = None) -> None:
        self.current, self.total = value, total or self.total
        self._told.append((self.current, self.total, preview))


class ComfyUI:
    """ComfyUI started with some switches, by their names in Python, on a machine with a card or (`--cpu`) without.

    `loaded` models, the newest first; `requests` the bytes that were asked for beside them, `asked_for` those that
    others were to make room for; `free` what the card has left, `others` what models that may leave have of it;
    `told` what its bars show.
    """

    def __init__(self, card: str = "cuda:0", **switches: Any) -> None:
        self.args, self.card = SimpleNamespace(**switches), torch.device(card)
        self.loaded: list[LoadedModel] = []
        self.requests: list[int] = []
        self.asked_for: list[int] = []
        self.free, self.others = 8 * GIGABYTE, 0
        self.interrupted = False
        self.told: list[tuple[int, int, Any]] = []

    def enter(self, monkeypatch: pytest.MonkeyPatch) -> ComfyUI:
        """Make its modules the ones that are imported."""
        for name, content in {
            "comfy": {},
            "comfy.cli_args": {"args": self.args},
            "comfy.model_management": self._management(),
            "comfy.model_patcher": {"ModelPatcher": ModelPatcher},
            "comfy.utils": {"ProgressBar": partial(ProgressBar, self.told)},
            "folder_paths": {"get_user_directory": lambda: os.devnull},
        }.items():
            module = ModuleType(name)
            module.__spec__ = ModuleSpec(name, None)  # by which one looks for it
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, name, module)
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, module)
        return self

    def prompt_ends(self) -> None:
        """What the host does after each prompt."""
        if self._given("disable_smart_memory"):
            self.unload_all_models()

    def unload_all_models(self) -> None:
        """As `POST /free` has it done: by places in the list."""
        places = range(len(self.loaded))
        for place in reversed(places):
            self.loaded[place].model_unload()
            assert isinstance(self.loaded[place].model.model, nn.Module), "it is told of"
        for place in reversed(places):
            self.loaded.pop(place)

    def _clean_up(self) -> None:
        self.loaded[:] = [entry for entry in self.loaded if entry.real_model() is not None]

    def _given(self, *names: str) -> bool:
        return any(getattr(self.args, name, False) for name in names)

    def _device(self) -> torch.device:
        return torch.device("cpu") if self._given("cpu") else self.card

    def _load(self, models: list[ModelPatcher], memory_required: int = 0, force_full_load: bool = False) -> None:
        self.requests.append(int(memory_required))
        for patcher in models:
            if patcher not in [entry.model for entry in self.loaded]:
                self.loaded.insert(0, LoadedModel(patcher, self._clean_up))
            patcher.load(patcher.load_device, full_load=force_full_load and not self._given("novram"))

    def _make_room(self, memory_required: int, device: torch.device, keep_loaded: list[Any]) -> list[Any]:
        """Others' models leave as far as they have to, and so do ours but for those to keep; `free` tells what the card
        then has."""
        self.asked_for.append(int(memory_required))
        for entry in [entry for entry in self.loaded if entry not in keep_loaded]:
            entry.model_unload()
            self.loaded.remove(entry)
        self.free = min(max(self.free, int(memory_required)), self.free + self.others)
        return []

    def _vram_state(self) -> VRAMState:
        given = {"cpu": "DISABLED", "novram": "NO_VRAM", "lowvram": "LOW_VRAM"}
        given |= {"highvram": "HIGH_VRAM", "gpu_only": "HIGH_VRAM"}
        return VRAMState[next((state for name, state in given.items() if self._given(name)), "NORMAL_VRAM")]

    def _management(self) -> dict[str, Any]:
        state, device, cpu = self._vram_state(), self._device(), torch.device("cpu")
        half = torch.bfloat16 if self._given("bf16_intermediates") else torch.float16
        reserved = getattr(self.args, "reserve_vram", None)

        def raise_if_interrupted() -> None:
            if self.interrupted:
                raise InterruptProcessingError

        return {
            "VRAMState": VRAMState,
            "current_loaded_models": self.loaded,
            "vram_state": state,
            "get_torch_device": lambda: device,
            "unet_offload_device": lambda: device if state is VRAMState.HIGH_VRAM else cpu,
            "intermediate_device": lambda: device if self._given("gpu_only") else cpu,
            "intermediate_dtype": lambda: (
                half if self._given("fp16_intermediates", "bf16_intermediates") else torch.float32
            ),
            "get_total_memory": lambda device: 16 * GIGABYTE,
            "get_free_memory": lambda device: self.free,
            "extra_reserved_memory": lambda: 400 << 20 if reserved is None else reserved * GIGABYTE,
            "load_models_gpu": self._load,
            "free_memory": self._make_room,
            "unload_all_models": self.unload_all_models,
            "soft_empty_cache": lambda: None,
            "throw_exception_if_processing_interrupted": raise_if_interrupted,
        }


class InterruptProcessingError(Exception):
    """The user asked to stop."""
