"""Every private name of torch and spandrel that the pack uses, in one place, with why no public one will do.

Where a new version of theirs breaks us, it is here that we look. What takes long to import is imported when asked for.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import chain
from typing import Any, TypeVar

import torch
from spandrel import ImageModelDescriptor
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# TorchDispatchMode, tree_leaves: torch's documentation on extending it uses these names; there are no others.
__all__ = ["TorchDispatchMode", "tree_leaves"]

SomeTensor = TypeVar("SomeTensor", bound=Tensor)


def architecture_call(descriptor: ImageModelDescriptor) -> Callable[[nn.Module, Tensor], Tensor]:
    """The architecture's own call, for the module and x [N, C, h, w]: some modules return tuples, or want other ranges.

    spandrel's public `descriptor(x)` also clamps, which hides broken values from the health check, and pads, which the
    tile plan did.
    """
    return descriptor._call_fn


def give_network(descriptor: ImageModelDescriptor, network: nn.Module) -> None:
    """Make `network`, which has its weights, that of `descriptor`, made with another: spandrel loads a state dict into
    the one that it is given, and there is no other way. That takes some times as long as reading one."""
    descriptor._model = network


def own_tensors(module: nn.Module) -> tuple[dict[str, nn.Parameter | None], dict[str, Tensor | None]]:
    """The parameters and buffers of `module` itself, by name: the very dictionaries, which show what replaced them.

    `named_parameters` and `named_buffers` take some times as long for deep models, and these are asked at every run and
    every tile.
    """
    return module._parameters, module._buffers


def put_own_tensors(module: nn.Module, parameters: dict[str, Any], buffers: dict[str, Any]) -> None:
    """Make these the dictionaries that `own_tensors` gives: others may tell what is asked of them."""
    vars(module).update(_parameters=parameters, _buffers=buffers)


def children_of(module: nn.Module) -> dict[str, nn.Module | None]:
    """The children of `module` itself by name, as `own_tensors` for tensors."""
    return module._modules


def version_of(tensor: Tensor) -> int:
    """Goes up when `tensor` is written in place; torch counts it for autograd and has no public word for it."""
    return tensor._version


def copy_module(module: nn.Module, copied: Callable[[Tensor], Tensor]) -> nn.Module:
    """A deep copy of `module` whose parameters and buffers are what `copied` makes of each, once: what is tied stays
    tied. Those of types of their own are copied in their own way, and so are modules that say how.

    `copy.deepcopy` alone would take some times as long for deep models: it asks every module how it is to be copied,
    and takes apart a dozen of its dictionaries, which are empty.
    """
    memo: dict[int, Any] = {}
    parts = list(module.modules())
    for part in parts:
        for tensor in chain.from_iterable(held.values() for held in own_tensors(part)):
            if tensor is not None and type(tensor) in (Tensor, nn.Parameter) and id(tensor) not in memo:
                ours = copied(tensor.detach())
                memo[id(tensor)] = nn.Parameter(ours, tensor.requires_grad) if type(tensor) is nn.Parameter else ours
    usual = {kind for kind in map(type, parts) if _is_copied_as_usual(kind)}
    parts = [part for part in parts if type(part) in usual and "__deepcopy__" not in vars(part)]
    for part in parts:  # before what they hold, which may lead back to them
        memo[id(part)] = type(part).__new__(type(part))
    for part in reversed(parts):  # the inner ones first
        memo[id(part)].__setstate__(_copied_attributes(part, memo))
    return copy.deepcopy(module, memo)


_HOW_TO_COPY = (
    "__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__", "__getnewargs_ex__", "__new__",
    "__slots__",
)  # fmt: skip
_EMPTIES = (dict, OrderedDict, set)
_UNCHANGING = (int, float, bool, str, type(None))


def _is_copied_as_usual(kind: type[nn.Module]) -> bool:
    """Whether a deep copy of such a module is one with copies of its attributes: its class says nothing else."""
    return all(getattr(kind, name, None) is getattr(nn.Module, name, None) for name in _HOW_TO_COPY)


def _copied_attributes(module: nn.Module, memo: dict[int, Any]) -> dict[str, Any]:
    """By name, as `copy.deepcopy` makes them with `memo`; what is usual in modules takes no call of it."""
    attributes = dict(vars(module))
    for name, value in attributes.items():
        kind = type(value)
        if kind in _UNCHANGING:
            continue
        if kind in _EMPTIES and not value:
            attributes[name] = memo.setdefault(id(value), kind())
        else:
            attributes[name] = copy.deepcopy(value, memo)
    return attributes


def has_hooks(module: nn.Module) -> bool:
    """Whether anything is called before or after `module`'s forward: torch lets one register it, but not ask for it."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def tensor_without_values(kind: type[SomeTensor], shape: Sequence[int], like: Tensor) -> SomeTensor:
    """A `kind` of this shape, with the type and device of `like`: there is no public way to make wrapper subclasses."""
    return Tensor._make_wrapper_subclass(kind, shape, dtype=like.dtype, device=like.device)


def plain_tensor_functions() -> AbstractContextManager[None]:
    """Within it, functions take subclasses of tensors for plain ones: torch documents it under this name only."""
    return torch._C.DisableTorchFunctionSubclass()


def schema_of(target: object) -> Any:
    """What one of torch's operations takes, gives and writes into; None for what is none. There is no public way to ask
    an operation that a traced graph calls."""
    return getattr(target, "_schema", None)


def forget_capture(pool: tuple[int, int]) -> None:
    """Make CUDA's allocator forget that a graph was to be captured into `pool`, on the current device.

    Until torch 2.12 it would believe in a failed capture for ever (pytorch's pull request 180395), and fail where
    memory is given back. Later ones raise `AttributeError` or `RuntimeError` here, since they know that it is over.
    Torch 2.6 has the first of the two under another name.
    """
    end = getattr(torch._C, "_cuda_endAllocateCurrentStreamToPool", None) or torch._C._cuda_endAllocateToPool
    end(torch.cuda.current_device(), pool)
    torch._C._cuda_releasePool(torch.cuda.current_device(), pool)


def give_back_pinned() -> bool:
    """Make torch give back the pinned memory that it keeps for later; whether it could.

    `torch.cuda.empty_cache` leaves it. What is public for it came after torch 2.11 (pytorch's pull request 171270);
    before, builds for CUDA and ROCm have another name, and others none. To be called where some was pinned: on devices
    whose pinned memory torch does not keep it may end the process (197593).
    """
    public = getattr(torch.accelerator, "empty_host_cache", None)
    give_back = public or getattr(torch._C, "_host_emptyCache", None)
    if give_back is not None:
        give_back()
    return give_back is not None


def package_loader(path: str, device: torch.device) -> Any:
    """The loader of a package made by AOTInductor; its `run` takes and gives lists of tensors.

    `torch._inductor.aoti_load_package`, which is documented, first probes this machine's compiler, for up to a minute
    in a fresh process. Up to torch 2.7 no device is taken: the package's own is the current one.
    """
    index = -1 if device.index is None else device.index
    loader = torch._C._aoti.AOTIModelPackageLoader  # pyright: ignore[reportAttributeAccessIssue]  # torch's stubs lack it
    for more in ((False, 1, index), (False,)):  # since 2.8, and in 2.7: by one thread, how many at once, where
        with suppress(TypeError):
            return loader(path, "model", *more)
    return loader(path, "model")  # 2.6


def compile_package(program: torch.export.ExportedProgram, path: str, options: dict[str, Any]) -> None:
    """Compile `program` by AOTInductor into the file `path`: documented, but in a package with a private name."""
    from torch import _inductor

    _inductor.aoti_compile_and_package(program, package_path=path, inductor_configs=options)


def compiler_options() -> list[str]:
    """The options that this torch's inductor knows: documented, but in a package with a private name."""
    from torch import _inductor

    return _inductor.list_options()


def trust_the_processor() -> None:
    """Let inductor, in all of this process, believe the processor when it tells which instructions it has.

    To see whether the compiler knows them it would compile a probe for each set and start a Python with torch to load
    it: half of a small model's compile.
    """
    from torch._inductor.cpu_vec_isa import VecISA

    VecISA.check_build = lambda self, code: True
