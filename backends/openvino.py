"""OpenVINO as an engine (https://docs.openvino.ai): what it compiles for the processor, in one file.

The file is what OpenVINO exports, the weights in it, after a line of ours that says by which version and in which type
it computes: that is not in what is exported, and what is loaded without computes in whatever its plugin is fastest at.
Not its model in two files: those are compiled again at every start, some tenths of a second to seconds; and not its own
cache folder (`CACHE_DIR`): that is kept under its own keys, and nobody asks whose files lie in it.
"""

from __future__ import annotations

import io
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..api.errors import first_line
from ..api.model_info import Forward
from ..api.options import Precision
from .errors import CompileError, TraceError
from .interface import Work
from .openvino_forward import OpenVinoForward
from .openvino_library import is_among, openvino_library
from .packages import OPENVINO
from .shapes import TileShapes

_MADE_BY = b"made by OpenVINO "
_HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_LONGEST_MARK = 200  # bytes; of a file of something else no more is read
_MISSING = re.compile(r"No conversion rule found for operations: (.*)")
_FAILED = re.compile(r"Conversion is failed for: (.*)")


@dataclass(frozen=True)
class OpenVino:
    """OpenVINO's plugin for `target`, by its name there: "CPU", "GPU" (Intel's) or "NPU". Tried on processors only; the
    others take and give what lies in main memory as well, but none was at hand."""

    target: str = "CPU"

    @property
    def name(self) -> str:
        return "openvino" if self.target == "CPU" else f"openvino:{self.target}"

    def version(self) -> str:
        """Of what is installed, "" where nothing is."""
        return OPENVINO.version()

    def lacks(self, device: torch.device) -> str:
        """Why it cannot be used where torch computes on `device`, or ""."""
        if device.type != "cpu":
            return f"OpenVINO takes what lies in main memory, and torch computes on {device.type}"
        return OPENVINO.missing()

    def build(self, work: Work, target: Path) -> None:
        """Trace, convert, compile and export into the file `target`. Raises `TraceError`, and `CompileError` where
        OpenVINO lacks operations of the model, or the device."""
        library = openvino_library()
        core = library.Core()
        found = core.available_devices
        if not is_among(self.target, found):
            raise CompileError(f"OpenVINO finds no {self.target} here, only {', '.join(found)}")
        shape = library.PartialShape(_sides(work.shapes, work.example.shape))
        try:
            with torch.no_grad():  # not left to OpenVINO, which would compute it three times more to check the trace
                traced = torch.jit.trace(work.module, work.example, strict=False, check_trace=False)
        except Exception as error:  # whatever a model raises
            raise TraceError(f"it cannot be traced for {work.shapes}: {first_line(error)}") from error
        level = logging.root.level
        try:
            model = library.convert_model(traced, example_input=work.example, input=[shape])
            hint = self._hint(core, work.precision)
            made = core.compile_model(model, self.target, _settings(hint)).export_model()
        except Exception as error:  # its converter's are many
            raise CompileError(_reason(str(error))) from error
        finally:
            logging.root.setLevel(level)  # its converter leaves it at errors where it fails, and nobody hears warnings
        mark = self._mark() + f"{hint}\n".encode()
        target.write_bytes(mark + (made if isinstance(made, bytes) else made.getvalue()))

    def bytes_held(self, file_bytes: int) -> int:
        """The file's weights as they are, and as its kernels take them, which is half of that in bfloat16. See
        `Engine.bytes_held`."""
        return 2 * file_bytes

    def load(self, path: Path, device: torch.device) -> Forward:
        """The forward in a file that `build` made, on as many threads as torch has now. See `Engine.load`."""
        mark = self._mark()
        with path.open("rb") as file:
            found = file.readline(_LONGEST_MARK)
            if not found.startswith(mark):
                other = found.startswith(_MADE_BY)
                raise CompileError(
                    "another OpenVINO made it than is installed" if other else "OpenVINO did not make it"
                )
            content, settings = io.BytesIO(file.read()), _settings(found[len(mark) :].decode(errors="replace").strip())
        try:
            return OpenVinoForward(openvino_library().Core().import_model(content, self.target, settings))
        except RuntimeError as error:
            raise CompileError(f"OpenVINO cannot read it: {_last_line(str(error))}") from error

    def _hint(self, core: Any, precision: Precision) -> str:
        """The type to compute in: that of `precision` where the device has it, else float32. Of float16 its plugin for
        processors would make bfloat16, which is coarser than what was asked for."""
        able = core.get_property(self.target, "OPTIMIZATION_CAPABILITIES")
        return _HINTS[precision] if precision.upper() in able else _HINTS["fp32"]

    def _mark(self) -> bytes:
        return _MADE_BY + f"{self.version()} for {self.target} in ".encode()


def _settings(hint: str) -> dict[str, Any]:
    """One batch after the other, in the type of `hint`, by the threads that the host allows, wherever the system wants
    them to run: pinning them would move the host's own."""
    return {
        "INFERENCE_PRECISION_HINT": hint,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,
    }


def _sides(shapes: TileShapes, example: torch.Size) -> list[int | tuple[int, int]]:
    """The batch's sides in OpenVINO's terms: a number, or from which to which."""
    if shapes.fixed:
        return [shapes.batch, example[1], *shapes.most]
    return [(1, shapes.batch), example[1], *zip(shapes.least, shapes.most, strict=True)]


def _reason(said: str) -> str:
    """Why it cannot be compiled, of what OpenVINO said in many lines."""
    found = _MISSING.search(said) or _FAILED.search(said)
    if not found:
        return f"OpenVINO cannot compile it: {_last_line(said)}"
    operations = found[1].strip()
    return f"OpenVINO lacks {operations}"


def _last_line(said: str) -> str:
    """What matters of OpenVINO's errors: the places in its source come first."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason is given"
