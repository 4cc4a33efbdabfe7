"""One process, or several that torchrun has started, each with a device of its own: NCCL between GPUs, Gloo else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Process:
    """The `rank`th of `count`, from 0, on `device`."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """The one that writes and tells."""
        return self.rank == 0

    def together(self, network: nn.Module) -> nn.Module:
        """`network`, whose gradients are the means of all processes'."""
        # a discriminator is asked twice a step, between which its buffers may not be written
        return DistributedDataParallel(network, broadcast_buffers=False) if self.count > 1 else network


@contextmanager
def joined(device: str) -> Iterator[Process]:
    """This process among those that torchrun started, with `device` ("cpu", "cuda") as the kind of each one's."""
    count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    own = torch.device(device, int(os.environ.get("LOCAL_RANK", "0"))) if device == "cuda" else torch.device(device)
    if count == 1:
        yield Process(0, 1, own)
        return
    if own.type == "cuda":
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if own.type == "cuda" else "gloo")
    try:
        yield Process(rank, count, own)
    finally:
        dist.destroy_process_group()
