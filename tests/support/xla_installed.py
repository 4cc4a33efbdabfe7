"""Whether there is what compiles for XLA."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from functools import cache

import pytest


@cache
def torchax_fits() -> bool:
    """Whether it can be imported beside this torch, which it takes hold of: elsewhere."""
    if not all(map(importlib.util.find_spec, ("jax", "torchax"))):
        return False
    return not subprocess.run([sys.executable, "-c", "import torchax"], capture_output=True).returncode


needs_xla = pytest.mark.skipif(not torchax_fits(), reason="no jax and torchax that fit this torch: make xla-env")
