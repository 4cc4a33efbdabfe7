"""An engine of TensorRT's in memory, called with torch's tensors, on torch's stream, in memory of torch's."""

from __future__ import annotations

import logging
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from .packages import TENSORRT_RTX
from .tensorrt_file import EngineFile
from .tensorrt_profiles import fitting
from .typed_onnx import INPUT, OUTPUT

logger = logging.getLogger("cudaspeed")

_ALIGNED = 256  # bytes; TensorRT takes no other addresses


class TensorRtForward:
    """x [N, C, h, w] float32 on the device -> float32, the caller's own. Raises `RuntimeError` where TensorRT refuses.

    `library` is TensorRT's module. What the engine works in is torch's memory, for as long as a batch takes and as much
    as its shape needs: TensorRT by itself would hold what the largest shape needs. All is in the order of torch's
    current stream, so that its allocator may give the memory to whatever comes next on that.
    """

    def __init__(self, library: Any, engine: EngineFile, device: torch.device) -> None:
        self._library, self._profiles, self._device = library, engine.profiles, device
        self._log, self._lock = new_log(library), Lock()
        self._contexts: dict[int, Any] = {}
        with torch.cuda.device(device):
            self._runtime = library.Runtime(self._log)  # which must live as long as the engine
            self._engine = self._runtime.deserialize_cuda_engine(engine.plan)
            if self._engine is None:
                raise RuntimeError(f"TensorRT cannot load what was compiled: {self._log.said()}")
            # TensorRT for RTX compiles kernels when it runs; TensorRT has them in the engine
            self._kernels = self._kernel_cache(engine.kernels) if engine.library == TENSORRT_RTX.engine else None

    def __call__(self, x: Tensor) -> Tensor:
        number, count = fitting(self._profiles, x.shape)
        with self._lock, torch.cuda.device(self._device):
            parts = [self._run(number, part) for part in x.split(count)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def kernels(self) -> bytes:
        """Those that were compiled on the card until now; b"" of an engine that has them all."""
        return b"" if self._kernels is None else bytes(self._kernels.serialize())

    def _run(self, number: int, x: Tensor) -> Tensor:
        x = x.contiguous()
        if x.data_ptr() % _ALIGNED:
            x = x.clone()
        stream = torch.cuda.current_stream(self._device).cuda_stream
        context = self._context(number, stream)
        if not context.set_input_shape(INPUT, tuple(x.shape)):
            raise RuntimeError(f"TensorRT refuses tiles of {tuple(x.shape)}: {self._log.said()}")
        size = context.update_device_memory_size_for_shapes()
        working = torch.empty(size, dtype=torch.uint8, device=self._device)
        context.set_device_memory(working.data_ptr(), size)
        result = torch.empty(tuple(context.get_tensor_shape(OUTPUT)), dtype=torch.float32, device=self._device)
        context.set_tensor_address(INPUT, x.data_ptr())
        context.set_tensor_address(OUTPUT, result.data_ptr())
        if not context.execute_async_v3(stream):
            raise RuntimeError(f"TensorRT could not compute: {self._log.said()}")
        return result

    def _context(self, number: int, stream: int) -> Any:
        """The context of a profile, made when it is first wanted."""
        if number not in self._contexts:
            ours = self._library.ExecutionContextAllocationStrategy.USER_MANAGED
            if self._kernels is None:
                context = self._engine.create_execution_context(ours)
            else:
                how = self._engine.create_runtime_config()
                how.set_execution_context_allocation_strategy(ours)
                how.set_runtime_cache(self._kernels)
                context = self._engine.create_execution_context(how)
            if context is None or not context.set_optimization_profile_async(number, stream):
                raise RuntimeError(f"TensorRT cannot run what was compiled: {self._log.said()}")
            self._contexts[number] = context
        return self._contexts[number]

    def _kernel_cache(self, known: bytes) -> Any:
        """Where the kernels are kept that are compiled of the engine, with those that are `known`."""
        cache = self._engine.create_runtime_config().create_runtime_cache()
        if known:
            cache.deserialize(known)  # whether it takes them or not: others are compiled
        return cache


def new_log(library: Any) -> Any:
    """One of TensorRT's loggers, which keeps errors for ours: `said()` is the last of them, in one line."""

    class Log(library.ILogger):
        def __init__(self) -> None:
            library.ILogger.__init__(self)  # as its bindings want it, without `super`
            self._errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            logger.debug("TensorRT: %s", text)
            if severity in (library.ILogger.Severity.ERROR, library.ILogger.Severity.INTERNAL_ERROR):
                self._errors.append(text)

        def said(self) -> str:
            return " ".join(self._errors[-1].split()) if self._errors else "it does not say why"

    return Log()
