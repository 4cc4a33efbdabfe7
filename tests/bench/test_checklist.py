"""The one command for a GPU."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from bench.harness import ROOT


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_checklist_says_in_one_line_that_there_is_no_cuda() -> None:
    command = ["bash", str(ROOT / "bench" / "cuda_checklist.sh")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHON": sys.executable})
    assert (done.returncode, done.stdout) == (1, "no CUDA device: nothing measured\n")
