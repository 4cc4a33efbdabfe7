"""torch warns of `torch.meshgrid` without `indexing`, which the architectures of spandrel call so: here it is said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class ExplicitMeshgrid(TorchFunctionMode):
    """While it is active, `torch.meshgrid` without `indexing` is called with what torch takes it for, "ij".

    Filters of Python's warnings would be the whole process's, and `warnings.catch_warnings` takes back what other
    threads changed meanwhile; this holds for one thread, and hides nothing else. It costs a microsecond an operation.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.meshgrid and kwargs.get("indexing") is None:
            kwargs = {**kwargs, "indexing": "ij"}
        return func(*args, **kwargs)
