"""Runs a command and writes what it took as JSON: `python bench/peak.py FILE COMMAND...`.

A process of its own, and a small one: what the system tells of the most memory that a child ever had begins with what
its parent had.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path


def run_command() -> int:
    began = time.perf_counter()
    code = subprocess.run(sys.argv[2:], check=False).returncode
    unit = 1 if sys.platform == "darwin" else 1024
    told = {
        "seconds": time.perf_counter() - began,
        "peak_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit,
    }
    Path(sys.argv[1]).write_text(json.dumps(told), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(run_command())
