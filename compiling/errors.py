"""What a failed compile says, in one line: whose fault it is, and what would mend it."""

from __future__ import annotations

import torch

from ..api.errors import first_line
from ..backends.errors import CompileError, TraceError

# What an error's text says -> what is missing and how to get it. All of these are the machine's, not the model's.
_MISSING = {
    ("no working c++ compiler", "compiler: cl is not found", "compiler: cl"): (
        "no C++ compiler was found; install one (Linux: g++, macOS: xcode-select --install, Windows: Visual Studio "
        "Build Tools with C++)"
    ),
    (
        "cannot find a working triton",
        "tritonmissing",
    ): "Triton is missing or does not work; install triton (Linux) or triton-windows for this torch",
    ("python.h",): "Python's C headers are missing; install them (Linux: python3-dev)",
    ("cuda.h", "cuda_runtime", "cuda_home", "-lcuda", "nvcc"): (
        "CUDA's headers or libraries are missing; install the CUDA toolkit of torch's CUDA version, or set CUDA_HOME"
    ),
    ("unrecognized command",): "the C++ compiler is too old for this processor; install a newer one",
    ("omp.h", "-lomp", "-fopenmp"): "the C++ compiler has no OpenMP; install it (macOS: libomp)",
}


def explain(error: BaseException) -> tuple[str, str]:
    """(scope, reason) of a failed compile: "environment" for what the machine lacks, "model" for what will fail again
    on this machine, "shapes" where other shapes may do better, "" for what may pass (memory or disk that ran out). The
    reason is one line."""
    text = said(error)
    short = "out of memory" in text.lower() or "signal terminated program" in str(error)  # the system's killer's work
    if "no space left" in text.lower():
        return "", "the disk is full"
    if short or isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "", "memory ran out"
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
        return "", text[:300]
    if not isinstance(error, CompileError | TraceError):
        for words, reason in _MISSING.items():
            if any(word in text.lower() for word in words):
                return "environment", reason
    return "shapes" if isinstance(error, TraceError) else "model", text[:300]


def said(error: BaseException) -> str:
    """Of what an error says, the line that matters. A C++ compiler's errors come after the command, whose flags name
    all sorts of things."""
    if isinstance(error, CompileError | TraceError):
        return str(error)
    output = str(error).partition("Output:\n")[2]
    complaints = [line for line in output.splitlines() if "error:" in line]
    return (
        f"{type(error).__name__}: {complaints[0].partition('error:')[2].strip() if complaints else first_line(error)}"
    )
