"""The private names of torch and spandrel that we use are there, and do what we take them to do. What fails here says
which version of which library changed which name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor, nn

from cudaspeed.api import upstream


@contextmanager
def changed(name: str, library: str = "torch") -> Iterator[None]:
    """Within it, whatever goes wrong is told as what it means."""
    try:
        yield
    except Exception as error:
        raise AssertionError(
            f"{library} {version(library)} changed {name} ({type(error).__name__}: {error}); see api/upstream.py"
        ) from error


def expect(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"no longer so: {what}")


def test_a_change_is_told_by_its_version_and_name() -> None:
    told = rf"^torch {re.escape(version('torch'))} changed Tensor\._gone \(AttributeError"
    with pytest.raises(AssertionError, match=told), changed("Tensor._gone"):
        torch.zeros(1)._gone  # type: ignore[attr-defined]  # noqa: B018
    told = r"^spandrel [\d.]+ changed _x \(ValueError: no longer so: it is there\); see api/upstream\.py"
    with pytest.raises(AssertionError, match=told), changed("_x", "spandrel"):
        expect(False, "it is there")


def test_the_architectures_own_call() -> None:
    with changed("ImageModelDescriptor._call_fn", "spandrel"):
        model = zoo.toy(2, lambda x: 2 * x)
        call = upstream.architecture_call(model)
        given = torch.full((1, 3, 5, 7), 0.75)
        expect(torch.equal(call(model.model, given), torch.full((1, 3, 10, 14), 1.5)), "it neither clamps nor pads")
        model._call_fn = lambda module, x: x
        expect(upstream.architecture_call(model)(model.model, given) is given, "what it calls can be replaced in tests")


def test_a_descriptors_network() -> None:
    with changed("ModelBase._model", "spandrel"):
        model, other = zoo.toy(2, lambda x: 2 * x), nn.Identity()
        upstream.give_network(model, other)
        expect(model.model is other, "it has the one that it was given")


class Tied(nn.Module):
    """Of what copying can get wrong: a weight twice, a child twice, a way back, plain values, and an own way."""

    class OfItsOwnWay(nn.Module):
        def __deepcopy__(self, memo: dict[int, object]) -> nn.Module:
            return nn.Tanh()

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.own = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1), Tied.OfItsOwnWay()
        self.second.weight = self.first.weight
        self.again, self.hidden = self.first, [self.second]
        self.parents = [self]
        self.of_child = {"parent": self.first.weight}
        self.register_buffer("table", torch.arange(3.0), persistent=False)
        self.first.register_forward_hook(_nothing)


def _nothing(*told: object) -> None:
    pass


def test_a_copied_module_is_a_deep_copy_of_it() -> None:
    module = Tied().eval()
    copied = upstream.copy_module(module, lambda weight: weight + 1)
    assert copied.first is not module.first
    assert copied.first is copied.again
    assert copied.hidden[0] is copied.second
    assert copied.parents[0] is copied
    assert copied.second.weight is copied.first.weight is copied.of_child["parent"]
    assert torch.equal(copied.first.weight, module.first.weight + 1)
    assert torch.equal(copied.table, module.table + 1)
    assert list(copied.state_dict()) == list(module.state_dict())  # what is no part of it still is not
    assert isinstance(copied.own, nn.Tanh)
    assert not copied.training
    assert upstream.has_hooks(copied.first)
    copied.second.register_forward_hook(_nothing)
    assert not upstream.has_hooks(module.second)


def test_a_modules_own_children() -> None:
    with changed("Module._modules"):
        module = nn.Sequential(nn.ReLU())
        children = upstream.children_of(module)
        expect(children["0"] is module[0], "they are there by their names")
        module[0] = nn.Identity()
        expect(children["0"] is module[0], "it shows what replaced them")


def test_a_modules_own_tensors() -> None:
    with changed("Module._parameters or Module._buffers"):
        module = nn.BatchNorm2d(3)
        parameters, buffers = upstream.own_tensors(module)
        expect(list(parameters) == ["weight", "bias"], "the parameters by their names")
        expect({"running_mean", "running_var"} <= set(buffers), "the buffers by their names")
        module.weight = nn.Parameter(torch.zeros(3))
        expect(parameters["weight"] is module.weight, "they show what replaced a parameter")
        expect(upstream.own_tensors(nn.Conv2d(1, 1, 1, bias=False))[0]["bias"] is None, "one that is not there is None")


def test_a_tensors_version() -> None:
    with changed("Tensor._version"):
        tensor = torch.zeros(3)
        before = upstream.version_of(tensor)
        tensor.sum()
        expect(upstream.version_of(tensor) == before, "reading leaves it")
        tensor[0] = 1
        expect(upstream.version_of(tensor) > before, "writing raises it")


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks(register: str) -> None:
    with changed("Module._forward_hooks or Module._forward_pre_hooks"):
        module = nn.Conv2d(1, 1, 1)
        expect(not upstream.has_hooks(module), "none at first")
        handle = getattr(module, register)(lambda *told: None)
        expect(upstream.has_hooks(module), "one that was registered is seen")
        handle.remove()
        expect(not upstream.has_hooks(module), "and is gone when it was removed")


class Bare(Tensor):
    """A kind of tensor, as `kernels/attention_fusion.py` makes them."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with upstream.plain_tensor_functions():
            if func is Tensor.size or func is torch.Tensor.dim:
                return func(*args, **(kwargs or {}))
            return "noted"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError


def test_tensors_without_values() -> None:
    with changed("Tensor._make_wrapper_subclass"):
        bare = upstream.tensor_without_values(Bare, (2, 3), like=torch.zeros(1, dtype=torch.bfloat16))
        expect(isinstance(bare, Bare), "it is of the kind that was asked for")
        with upstream.plain_tensor_functions():
            told = tuple(bare.shape), bare.dtype, bare.device.type
        expect(told == ((2, 3), torch.bfloat16, "cpu"), "it has its shape, the other's type and device")


def test_plain_tensor_functions() -> None:
    with changed("torch._C.DisableTorchFunctionSubclass"):
        bare = upstream.tensor_without_values(Bare, (2, 3), like=torch.zeros(1))
        expect(torch.add(bare, 1) == "noted", "subclasses are asked")  # type: ignore[comparison-overlap]
        expect(bare.dim() == 2, "within it they are not, in this thread")


def test_schemas() -> None:
    with changed("OpOverload._schema"):
        schema = upstream.schema_of(torch.ops.aten.add_.Tensor)
        first = schema.arguments[0]
        expect((first.name, first.alias_info.is_write) == ("self", True), "it tells what is written into")
        expect(len(schema.returns) == 1, "it tells what comes back")
        expect(upstream.schema_of(len) is None, "what is no operation has none")


def test_what_forgets_a_capture_is_there() -> None:
    """Called on CUDA only, and torch need not be built for it: then it is not there, and never called."""
    if not torch.backends.cuda.is_built():
        pytest.skip("this torch is built without CUDA")
    with changed("torch._C._cuda_endAllocateToPool (torch 2.6: _cuda_endAllocateCurrentStreamToPool)"):
        names = {"_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool"} & set(dir(torch._C))
        expect(bool(names), "one of them is there")
    with changed("torch._C._cuda_releasePool"):
        expect(callable(torch._C._cuda_releasePool), "it can be called")


def test_operations_are_seen_with_their_results() -> None:
    seen: list[str] = []

    class Seeing(upstream.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with changed("torch.utils._python_dispatch.TorchDispatchMode"):
        with Seeing(), torch.no_grad():
            nn.Conv2d(3, 4, 1)(torch.empty(1, 3, 2, 2, device="cpu"))
        expect(any("convolution" in name for name in seen), "a convolution's own operation is among them")
        before = len(seen)
        torch.zeros(1)
        expect(len(seen) == before, "nothing is seen afterwards")


def test_leaves_of_what_operations_give() -> None:
    with changed("torch.utils._pytree.tree_leaves"):
        one, two = torch.zeros(1), torch.zeros(2)
        leaves = upstream.tree_leaves((one, [two, None, {"more": 3}]))
        expect([leaf for leaf in leaves if isinstance(leaf, Tensor)] == [one, two], "in their order")
        expect(upstream.tree_leaves(one)[0] is one, "one tensor is a leaf itself")
