"""What is noticed of a model's weights between two runs, and what is no change."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from cudaspeed.storage import fingerprint
from cudaspeed.storage.fingerprint import content_of, unchanged, versions_of


class Model(nn.Module):
    """Of all that a model holds: nested parts, one of them twice, buffers in and beside its state."""

    mean: torch.Tensor
    mask: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.1), nn.Sequential(nn.Conv2d(4, 3, 3, bias=False)))
        self.again = self.body[0]
        self.register_buffer("mean", torch.rand(3))
        self.register_buffer("mask", torch.rand(3), persistent=False)
        self.register_buffer("none", None)


def conv(model: Model) -> nn.Conv2d:
    found = model.body[0]
    assert isinstance(found, nn.Conv2d)
    return found


def in_place(model: Model) -> None:
    with torch.no_grad():
        conv(model).weight.add_(1)


def weight_replaced(model: Model) -> None:
    conv(model).weight = nn.Parameter(torch.rand(4, 3, 3, 3))


def weight_given_other_data(model: Model) -> None:
    conv(model).weight.data = torch.rand(4, 3, 3, 3)


def other_weights_loaded(model: Model) -> None:
    model.load_state_dict({name: value + 1 for name, value in model.state_dict().items()})


def bias_removed(model: Model) -> None:
    conv(model).bias = None


def part_replaced(model: Model) -> None:
    model.body[2] = nn.Conv2d(4, 3, 3)


def part_without_weights_replaced(model: Model) -> None:
    model.body[1] = nn.ReLU()


def part_added(model: Model) -> None:
    model.body[1].add_module("more", nn.Conv2d(1, 1, 1))


def part_without_weights_added(model: Model) -> None:
    model.body[1].add_module("more", nn.ReLU())


def part_removed(model: Model) -> None:
    del model.body[1]


def buffer_written(model: Model) -> None:
    model.mean.mul_(2)


def buffer_beside_the_state_written(model: Model) -> None:
    model.mask.mul_(2)


def buffer_replaced(model: Model) -> None:
    model.mask = torch.rand(3)


def buffer_added(model: Model) -> None:
    model.body[1].register_buffer("more", torch.rand(1))


CHANGES = [
    in_place, weight_replaced, weight_given_other_data, other_weights_loaded, bias_removed, part_replaced,
    part_without_weights_replaced, part_added, part_without_weights_added, part_removed, buffer_written,
    buffer_beside_the_state_written, buffer_replaced, buffer_added,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("content_known", [False, True])
def test_every_change_is_noticed(change: Callable[[Model], None], content_known: bool) -> None:
    model = Model()
    before = versions_of(model)
    if content_known:
        content_of(model)
    assert versions_of(model) == before
    change(model)
    after = versions_of(model)
    assert after != before
    assert versions_of(model) == after


@pytest.mark.parametrize("change", CHANGES)
def test_the_content_is_that_of_the_weights_there_are(change: Callable[[Model], None]) -> None:
    known, fresh = Model(), Model()
    before = content_of(known)
    assert before == content_of(fresh)
    change(known)
    torch.manual_seed(0)
    assert content_of(known) == fingerprint._digest_of(known)
    beside = (
        buffer_beside_the_state_written, buffer_replaced, part_without_weights_replaced, part_without_weights_added
    )  # fmt: skip
    in_state = change not in beside
    assert (content_of(known) != before) == in_state


def moved(model: Model) -> None:
    """As to another device: parameters stay what they are and lie elsewhere, buffers are others."""
    model._apply(torch.clone)


def the_same_loaded(model: Model) -> None:
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})


@pytest.mark.parametrize("change", [moved, the_same_loaded])
def test_the_same_weights_again_are_no_change(change: Callable[[Model], None]) -> None:
    """Or a copy would be made anew whenever a host has moved the caller's model."""
    model = Model()
    content, before = content_of(model), versions_of(model)
    change(model)
    assert (content_of(model), versions_of(model)) == (content, before)


def test_looking_reads_no_weights_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, read = Model(), []
    known = versions_of(model), content_of(model)
    monkeypatch.setattr(fingerprint, "_digest", lambda tensors: read.append(tensors) or "0" * 64)
    for _ in range(3):
        assert (versions_of(model), content_of(model)) == known
    assert not read


def test_within_a_run_weights_are_taken_for_what_they_were_and_afterwards_not() -> None:
    model, other = Model(), Model()
    before, others = versions_of(model), versions_of(other)
    with unchanged(model):
        in_place(model)
        in_place(other)
        assert versions_of(model) == before
        assert versions_of(other) != others
    assert versions_of(model) != before


def test_inference_tensors_are_read_again_for_a_later_run() -> None:
    with torch.inference_mode():
        model = Model()
    content, before = content_of(model), versions_of(model)
    with torch.inference_mode():
        conv(model).weight.add_(1)
    assert content_of(model) == content  # it cannot be noticed
    assert content_of(model, time.monotonic()) != content
    assert versions_of(model) != before
    now = versions_of(model)
    assert content_of(model, time.monotonic()) == content_of(model)
    assert versions_of(model) == now


def knows(model: Model, *_: object) -> None:
    """A hook that keeps the whole model."""


def test_no_model_is_kept_alive_even_one_that_its_parts_know() -> None:
    model = Model()
    conv(model).register_forward_hook(partial(knows, model))
    content_of(model)
    gone, tensor = weakref.ref(model), weakref.ref(conv(model).weight)
    del model
    gc.collect()
    assert gone() is None
    assert tensor() is None


def test_a_weight_that_was_replaced_goes() -> None:
    model = Model()
    versions_of(model)
    gone = weakref.ref(conv(model).weight)
    weight_replaced(model)
    versions_of(model)  # until it is looked at again, the weight is held
    gc.collect()
    assert gone() is None
