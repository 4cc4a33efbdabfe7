"""A model's forward as an ONNX file in which every tensor has the type that it is computed in.

TensorRT since 11, and its networks of strong types before, take types from there and choose none. So the forward is
traced as torch's autocast computes it: products in half precision, what is delicate in fp32; and weights lie in the
file in the type that they are used in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..api.errors import first_line
from ..api.options import Precision
from ..api.upstream import TorchDispatchMode, tree_leaves
from .errors import CompileError, TraceError
from .interface import Work
from .varying_sizes import varying_sizes

INPUT, OUTPUT = "x", "y"
_HALF: dict[Precision, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}
_CAST, _CAST_LIKE = "aten._to_copy.default", "aten.type_as.default"  # operations, as torch writes them


def write_onnx(work: Work, path: Path) -> None:
    """Trace and write `work`'s forward: `INPUT` [N, C, h, w] float32 -> `OUTPUT` float32. Needs onnxscript.

    Raises `TraceError` where it cannot be traced, `CompileError` where ONNX lacks operations of it.
    """
    try:
        program = typed_program(work)
    except Exception as error:  # the tracer's many, and whatever a model raises on tensors without values
        raise TraceError(f"it cannot be traced for {work.shapes}: {first_line(error)}") from error
    try:
        exported = torch.onnx.export(
            program, (), dynamo=True, verbose=False, input_names=[INPUT], output_names=[OUTPUT]
        )
        assert exported is not None  # as it is without a file to write to
        exported.save(str(path))
    except ImportError:
        raise
    except Exception as error:  # the exporter's are many as well
        raise CompileError(f"it cannot be written as ONNX: {_reason(error)}") from error


def typed_program(work: Work) -> torch.export.ExportedProgram:
    """The forward, traced in `work`'s precision for its shapes. Raises whatever tracing raises."""
    varying = varying_sizes(work.shapes)
    with torch.no_grad():
        forward = _Typed(work.module, _HALF.get(work.precision))
        program = torch.export.export(forward, (work.example,), dynamic_shapes=varying, strict=False)
        traced: Any = program.run_decompositions({}).module()  # now autocast's changes of type are operations
        _settle_types(traced)
        return torch.export.export(traced, (work.example,), dynamic_shapes=varying, strict=False)


def largest_tensor(work: Work) -> int:
    """The elements of the largest tensor that the forward makes of the example."""
    watch = _Sizes()
    with torch.no_grad(), watch:
        work.module(work.example)
    return watch.most


class _Typed(nn.Module):
    """The forward as autocast computes it in `half`; None: as it is."""

    def __init__(self, module: nn.Module, half: torch.dtype | None) -> None:
        super().__init__()
        self.module, self._half = module, half

    def forward(self, x: Tensor) -> Tensor:
        if self._half is None:
            return self.module(x)
        with torch.autocast(x.device.type, self._half):
            y = self.module(x)
        return y.float()


class _Sizes(TorchDispatchMode):
    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.most = max(self.most, *(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)), 0)
        return result


def _settle_types(traced: fx.GraphModule) -> None:
    """Bring weights, in place, into the types that they are cast to, once; and leave out changes to the same type,
    which torch's exporter fails at where they are a weight's (2.6 to 2.11)."""
    kept: dict[tuple[str, torch.dtype], str] = {}
    for node in [node for node in traced.graph.nodes if str(node.target) in (_CAST, _CAST_LIKE)]:
        source: Any = node.args[0]
        value = _attribute(traced, str(source.target)) if source.op == "get_attr" else source.meta["val"]
        wanted = node.meta["val"].dtype
        if str(node.target) == _CAST_LIKE and value.dtype == wanted:
            node.replace_all_uses_with(source)
        elif source.op == "get_attr":
            name = kept.setdefault((str(source.target), wanted), f"_typed_{len(kept)}")
            if not hasattr(traced, name):
                traced.register_buffer(name, value.detach().to(wanted))
            with traced.graph.inserting_before(node):
                node.replace_all_uses_with(traced.graph.get_attr(name))
    traced.graph.eliminate_dead_code()
    traced.recompile()


def _attribute(module: nn.Module, path: str) -> Tensor:
    held: Any = module
    for name in path.split("."):
        held = getattr(held, name)
    return held


def _reason(error: BaseException) -> str:
    """What lies under what the exporter says: its own first line names the step only."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {first_line(error)}"
