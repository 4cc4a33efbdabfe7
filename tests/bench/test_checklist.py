"""The one command for a GPU, and that for a TPU."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from bench.harness import ROOT


def test_the_tpus_checklist_says_in_one_line_that_there_is_none() -> None:
    """On a machine whose JAX, if there is any, is told to look for no TPU."""
    command = ["bash", str(ROOT / "bench" / "tpu_checklist.sh")]
    told = {**os.environ, "PYTHON": sys.executable, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, env=told)
    assert (done.returncode, done.stdout) == (1, "no TPU, or no JAX that finds one: nothing measured\n")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_checklist_says_in_one_line_that_there_is_no_cuda() -> None:
    command = ["bash", str(ROOT / "bench" / "cuda_checklist.sh")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHON": sys.executable})
    assert (done.returncode, done.stdout) == (1, "no CUDA device: nothing measured\n")
