"""Our copy of a model: what runs it, where."""

from __future__ import annotations

import torch
import zoo

from cudaspeed.models.cuda_graphs import CudaGraphExecutor
from cudaspeed.models.execution import EagerExecutor, ExecutionMode
from cudaspeed.models.runner import ModelRunner

MODE = ExecutionMode("fp32", autocast=False, channels_last=True)


def test_graphs_are_for_cuda_alone_whatever_the_copy_ran_on_before() -> None:
    """A graph recorded on a CPU would be empty, and repeat its first picture for ever."""
    for devices in (["cuda:0", "cpu"], ["cpu", "cuda:0"]):
        runner = ModelRunner(zoo.compact(), MODE)
        kinds = {name: type(runner.executor(torch.device(name))) for name in devices}
        assert kinds == {"cpu": EagerExecutor, "cuda:0": CudaGraphExecutor}
        assert runner.executor(torch.device("cpu")) is runner.executor(torch.device("cpu"))
