"""Our own copy of a caller's model, in the type and layout we compute with.

The caller's model is shared with other nodes (core's loader caches it, core's upscale node runs it in fp32), so it is
only ever read. The copy lives as long as the caller's module does, and no longer.
"""

from __future__ import annotations

import json
import logging
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from spandrel import ImageModelDescriptor
from torch import Tensor, nn

from ..api.context import Resident
from ..api.model_info import Forward, ModelInfo
from ..api.upstream import architecture_call, copy_module, own_tensors
from ..kernels.attention_fusion import FusedAttention
from ..kernels.heartbeat import beat
from ..kernels.rewrite import fold_convolutions, narrow_fused, rewrite
from ..kernels.workspace import shared_workspace
from ..memory import bytes_for_copies, weights_bytes
from ..storage.fingerprint import versions_of
from .cuda_graphs import CudaGraphExecutor, CudaRecorder
from .execution import DTYPES, EagerExecutor, ExecutionMode, Executor
from .info import is_convolutional, model_info
from .meshgrid import ExplicitMeshgrid
from .pace import Pace
from .result_check import check_result

logger = logging.getLogger("cudaspeed")

# spandrel's ids of architectures that call it in forwards, not in their constructors alone.
_MESHGRID_IN_FORWARDS = ("FDAT",)


class ModelRunner:
    """A private copy of a descriptor's module, in a mode. A `Resident`.

    `forward` raises `ModelFailedError` where the model gives something else than it should; `traceable` is the same for
    tracers, without that look at the result. `compiled` is where the compile cache keeps what goes with this copy,
    `pace` tells how its forwards went; `bytes` are those of its weights. `when_taken` is called when a host takes these
    away. `offload` is what lies on the device of them in their place, while they do not fit there (`come_in_parts`);
    `in_one_piece`: it was found out that they cannot come in parts.
    """

    def __init__(self, descriptor: ImageModelDescriptor, mode: ExecutionMode) -> None:
        self.mode = mode
        self.versions = versions_of(descriptor.model)
        self.info = info = model_info(descriptor)
        self.convolutional = info.convolutional
        self.module: nn.Module = _copy(descriptor.model, mode)
        self.residence: object = None
        self.traceable = _forward(self.module, call_of(descriptor, mode), mode)
        self.forward = _checked(self.traceable, info)
        self.compiled: dict[str, Any] = {}
        self.pace = Pace()
        self.bytes = weights_bytes(self.module)
        self.when_taken: Callable[[], object] = lambda: None
        self.offload: Resident | None = None
        self.in_one_piece = False
        self._executors: dict[torch.device, Executor] = {}

    @property
    def device(self) -> torch.device:
        """Where its weights lie, or the first of them."""
        # not by `parameters()`, which goes through all modules of one whose weights are buffers
        held = (tensor for part in self.module.modules() for kind in own_tensors(part) for tensor in kind.values())
        return next((tensor.device for tensor in held if tensor is not None), torch.device("cpu"))

    def executor(self, device: torch.device, graphs: bool = True) -> Executor:
        """What runs `forward` on `device`, where the module lies, while nothing is compiled of it.

        On CUDA the kernels of convolutional models are launched as one where that is clearly faster, if there may be
        CUDA `graphs`; others may look at what they computed, which cannot be recorded.
        """
        if device not in self._executors:
            # a graph's kernels know where weights lie
            if device.type == "cuda" and self.convolutional and graphs and self.offload is None:
                recorded = CudaGraphExecutor(self.forward, self.module, self.mode, CudaRecorder(device))
                self._executors[device] = recorded
            else:
                self._executors[device] = EagerExecutor(self.forward, self.mode)
        return self._executors[device]

    def come_in_parts(self, offload: Resident | None, forward: Forward) -> None:
        """From now on computed by `forward`, which brings the weights that `offload` has not on the device. Without
        `offload` all are brought there, as before."""
        self.release()
        self._executors.clear()
        self.offload, self.forward = offload, forward

    def release_graphs(self) -> None:
        """Give back the memory of recorded CUDA graphs, which are recorded anew when they are wanted."""
        for executor in self._executors.values():
            executor.release()

    def release(self, weights: bool = False) -> None:
        """Give back what was made beside the weights, and is made or loaded anew when it is wanted; with `weights`, all
        of the copy, once the runs that have it are over."""
        for compiled in self.compiled.values():
            compiled.release()
        self.compiled.clear()
        self.release_graphs()
        if weights:
            self.when_taken()


def architecture_of(descriptor: ImageModelDescriptor) -> str:
    """The architecture with its tags and hyper-parameters, as spandrel read them off the weights."""
    hyper = getattr(descriptor.model, "hyperparameters", {})
    told = json.dumps(hyper, sort_keys=True, default=str) if hyper else ""
    return " ".join([descriptor.architecture.id, f"x{descriptor.scale}", *descriptor.tags, told]).strip()


def plain_call(descriptor: ImageModelDescriptor) -> Callable[[nn.Module, Tensor], Tensor]:
    """The architecture's own call, for the module and x [N, C, h, w], by torch's own operations, without a word."""
    call = architecture_call(descriptor)
    if descriptor.architecture.id not in _MESHGRID_IN_FORWARDS:
        return call

    def explicit(module: nn.Module, x: Tensor) -> Tensor:
        with ExplicitMeshgrid():
            return call(module, x)

    return explicit


def call_of(descriptor: ImageModelDescriptor, mode: ExecutionMode) -> Callable[[nn.Module, Tensor], Tensor]:
    """The architecture's own call, for the module and x [N, C, h, w], as `mode` computes attention."""
    call = plain_call(descriptor)
    if mode.kernels == "plain" or is_convolutional(descriptor.model):
        return call

    products = DTYPES[mode.precision] if mode.only_products else torch.float32

    def fused(module: nn.Module, x: Tensor) -> Tensor:
        with FusedAttention(products):
            return call(module, x)

    return fused


def _copy(module: nn.Module, mode: ExecutionMode) -> nn.Module:
    """A copy on the CPU, in the mode's type and layout, for inference only."""
    # Outside inference mode: ComfyUI loads models under it, and compiled code cannot track inference tensors.
    with torch.inference_mode(False), torch.no_grad():
        ours = copy_module(module, _private).eval().requires_grad_(False)
        for tensor in (*ours.parameters(), *ours.buffers()):
            if type(tensor) not in (Tensor, nn.Parameter):  # copied in its own way, which may share
                tensor.data = tensor.data.clone()
        fold_convolutions(ours)
        ours.to("cpu", mode.weight_dtype)
        rewrite(ours, mode.kernels, DTYPES[mode.precision])  # what it makes has types of its own
        if mode.channels_last:
            for tensor in (*ours.parameters(), *ours.buffers()):
                if tensor.ndim == 4:  # `Module.to` fails on others of more
                    tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
        if mode.autocast:
            narrow_fused(ours, DTYPES[mode.precision])
        return ours


def _private(tensor: Tensor) -> Tensor:
    """The caller's tensor, which may be an inference tensor or a view of another, as a normal one of its own."""
    beat(0)
    return tensor.to("cpu", copy=True)


def _forward(module: nn.Module, call: Callable[[nn.Module, Tensor], Tensor], mode: ExecutionMode) -> Forward:
    """x [N, C, h, w] float32 0..1 on the module's device -> [N, C', h*scale, w*scale] of the mode's type, unclamped.

    Sizes must satisfy the model's requirements. A closure, not a method: it must not keep its owner alive.
    """
    layout = torch.channels_last if mode.channels_last else torch.contiguous_format

    def forward(x: Tensor) -> Tensor:
        # always a copy: some architectures (RCAN) write into what they are given
        x = x.to(dtype=mode.weight_dtype, memory_format=layout, copy=True)
        automatic = torch.autocast(x.device.type, DTYPES[mode.precision]) if mode.autocast else nullcontext()
        with automatic, shared_workspace():
            return call(module, x)

    return forward


def _checked(forward: Forward, info: ModelInfo) -> Forward:
    """`forward`, whose result is looked at. A closure, as `_forward` is."""
    return lambda x: check_result(forward(x), x, info)


class RunnerCache:
    """The copies of models that runs begin with, in as much memory as `limit` gives for a device.

    One per caller's module, replaced when another mode is asked for, gone when the module is, and when its host takes
    away the weights. Where copies on one device take more than the limit, those go that were used the longest ago, but
    not the newest.
    """

    def __init__(self, limit: Callable[[torch.device], int] = bytes_for_copies) -> None:
        self._limit, self._lock = limit, threading.RLock()
        self._by_module: weakref.WeakKeyDictionary[nn.Module, ModelRunner] = weakref.WeakKeyDictionary()  # newest last

    def put(self, descriptor: ImageModelDescriptor, runner: ModelRunner, device: torch.device | None = None) -> None:
        """Make `runner` the copy of `descriptor`'s module, which comes to lie on `device`; None: where it lies now."""
        model = weakref.ref(descriptor.model)
        runner.when_taken = partial(self._forget, model, weakref.ref(runner))
        self._use(descriptor.model, runner)
        with self._lock:
            taken: Counter[tuple[str, int]] = Counter()
            for module, kept in reversed([*self._by_module.items()]):
                where = device if kept is runner and device else kept.device
                place = where.type, where.index or 0  # "cuda" is mostly the first
                taken[place] += kept.bytes
                if kept is not runner and taken[place] > self._limit(where):
                    logger.debug("a copy of %d bytes goes: others were used since", kept.bytes)
                    taken[place] -= kept.bytes
                    del self._by_module[module]

    def find(self, descriptor: ImageModelDescriptor, mode: ExecutionMode) -> ModelRunner | None:
        """The copy of `descriptor`'s module in `mode`, if there is one of its weights as they are."""
        runner = self._by_module.get(descriptor.model)
        if runner is None or runner.mode != mode or runner.versions != versions_of(descriptor.model):
            return None
        self._use(descriptor.model, runner)
        return runner

    def get(
        self, descriptor: ImageModelDescriptor, mode: ExecutionMode, device: torch.device | None = None
    ) -> ModelRunner:
        """The copy of `descriptor`'s module in `mode`, made now if it is not there, for `device`, as in `put`."""
        runner = self.find(descriptor, mode)
        if runner is None:
            runner = ModelRunner(descriptor, mode)
            self.put(descriptor, runner, device)
        return runner

    def held(self) -> list[ModelRunner]:
        """All copies that there are now."""
        with self._lock:
            return [*self._by_module.values()]

    def clear(self) -> None:
        """Let go of all copies. No run may have one."""
        for runner in self.held():
            runner.release(weights=True)

    def _use(self, module: nn.Module, runner: ModelRunner) -> None:
        with self._lock:
            self._by_module.pop(module, None)
            self._by_module[module] = runner

    def _forget(self, model: weakref.ref[nn.Module], runner: weakref.ref[ModelRunner]) -> None:
        module = model()
        if module is not None:
            with self._lock:
                if self._by_module.get(module) is runner():  # and not another that took its place
                    self._by_module.pop(module, None)
