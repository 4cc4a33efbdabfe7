"""Convolutions with what follows them: the plain way, and when another takes its place."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cudaspeed.kernels.autotuned_convolution import Candidate, Convolutions, Layer, choose_convolution
from cudaspeed.kernels.convolution import Residual, plain_convolution

LAYER = Layer(torch.device("cpu"), torch.float32, 1, 9, 11, channels=16, out_channels=8, pitch=32, out_pitch=24)


def right(*args, **kwargs) -> None:
    plain_convolution(*args, **kwargs)


def also_right(*args, **kwargs) -> None:
    plain_convolution(*args, **kwargs)


def wrong_in_a_corner(source, target, *args, **kwargs) -> None:
    plain_convolution(source, target, *args, **kwargs)
    target[0, 0, 0, 0] += 0.5


def raises(*args, **kwargs) -> None:
    raise RuntimeError("no such instruction")


def timer(**seconds: float) -> Callable[[Callable], float]:
    """Says what each function, by its name, takes; nothing is run."""

    def time(work: Callable) -> float:
        held = [cell.cell_contents for cell in work.__closure__ or ()] + [*(work.__defaults__ or ())]
        name = next((f.__name__ for f in held if getattr(f, "__name__", "") in seconds), "plain")
        return seconds[name]

    return time


@pytest.mark.parametrize(
    ("candidates", "seconds", "chosen"),
    [
        ([right], {"plain": 1.0, "right": 0.5}, right),
        ([right, also_right], {"plain": 1.0, "right": 0.5, "also_right": 0.4}, also_right),
        ([also_right, right], {"plain": 1.0, "right": 0.5, "also_right": 0.4}, also_right),
        ([right], {"plain": 1.0, "right": 0.99}, plain_convolution),  # that is noise
        ([right], {"plain": 1.0, "right": 2.0}, plain_convolution),
        ([wrong_in_a_corner], {"plain": 1.0, "wrong_in_a_corner": 0.1}, plain_convolution),
        ([raises], {"plain": 1.0, "raises": 0.1}, plain_convolution),
        ([raises, wrong_in_a_corner, right], {"plain": 1.0, "right": 0.5, "wrong_in_a_corner": 0.1}, right),
        ([], {"plain": 1.0}, plain_convolution),
    ],
)
def test_the_fastest_is_taken_among_those_that_are_right(candidates, seconds, chosen) -> None:
    offered = [Candidate(convolve.__name__, convolve) for convolve in candidates]
    assert choose_convolution(offered, LAYER, timer(**seconds)) is chosen


def nan_everywhere(source, target, *args, **kwargs) -> None:
    target.fill_(float("nan"))


def test_nan_is_not_right() -> None:
    seconds = timer(plain=1.0, nan_everywhere=0.1)
    assert choose_convolution([Candidate("nan", nan_everywhere)], LAYER, seconds) is plain_convolution


def test_a_lack_of_memory_is_no_fault_of_the_candidate() -> None:
    def starves(*args, **kwargs) -> None:
        raise torch.cuda.OutOfMemoryError("out of memory")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        choose_convolution([Candidate("starves", starves)], LAYER, timer(plain=1.0))


class Pictures:
    """A source, a target and parameters for one convolution, from 16 to 8 channels."""

    def __init__(self, side: int = 80) -> None:
        generator = torch.Generator().manual_seed(0)
        page = torch.randn(1, 32, side, side, generator=generator).to(memory_format=torch.channels_last)
        self.source, self.target = page[:, :16], torch.zeros_like(page)[:, 16:24]
        self.weight, self.bias = torch.randn(8, 16, 3, 3, generator=generator), torch.randn(8, generator=generator)

    def convolve(self, by: Callable) -> Tensor:
        by(self.source, self.target.zero_(), self.weight, self.bias, 0.2)
        return self.target.clone()

    @property
    def truth(self) -> Tensor:
        return F.leaky_relu(F.conv2d(self.source, self.weight, self.bias, padding=1), 0.2)


def counted(asked: list[Layer], *candidates: Callable) -> Callable[[Layer], list[Candidate]]:
    def find(layer: Layer) -> list[Candidate]:
        asked.append(layer)
        return [Candidate(convolve.__name__, convolve) for convolve in candidates]

    return find


def test_a_layer_is_measured_once_and_the_choice_serves_from_then_on() -> None:
    asked: list[Layer] = []
    calls: list[tuple] = []

    def noted(*args) -> None:
        calls.append(args)
        plain_convolution(*args)

    convolutions = Convolutions(counted(asked, noted), timer(plain=1.0, noted=0.1))
    pictures = Pictures()
    torch.testing.assert_close(pictures.convolve(convolutions), pictures.truth)
    so_far = len(calls)
    torch.testing.assert_close(pictures.convolve(convolutions), pictures.truth)
    assert len(calls) == so_far + 1
    assert [(layer.channels, layer.out_channels, layer.pitch, layer.out_pitch) for layer in asked] == [(16, 8, 32, 32)]


def test_tiny_pictures_are_not_worth_measuring() -> None:
    asked: list[Layer] = []
    pictures = Pictures(side=32)
    torch.testing.assert_close(pictures.convolve(Convolutions(counted(asked, right))), pictures.truth)
    assert not asked


def test_one_that_fails_after_it_was_chosen_is_replaced_with_one_line(caplog) -> None:
    healthy = [True]

    def moody(*args) -> None:
        if not healthy[0]:
            raise RuntimeError("launch failed")
        plain_convolution(*args)

    convolutions = Convolutions(counted([], moody), timer(plain=1.0, moody=0.1))
    pictures = Pictures()
    pictures.convolve(convolutions)
    healthy[0] = False
    with caplog.at_level(logging.INFO, "cudaspeed"):
        for _ in range(3):
            torch.testing.assert_close(pictures.convolve(convolutions), pictures.truth)
    assert [record.getMessage() for record in caplog.records if "launch failed" in record.getMessage()] != []
    assert len(caplog.records) == 1


def test_without_triton_everything_goes_the_plain_way_with_one_line(caplog) -> None:
    def find(layer: Layer) -> list[Candidate]:
        raise ModuleNotFoundError("No module named 'triton'")

    convolutions, pictures, small = Convolutions(find), Pictures(), Pictures(side=200)
    with caplog.at_level(logging.INFO, "cudaspeed"):
        torch.testing.assert_close(pictures.convolve(convolutions), pictures.truth)
        torch.testing.assert_close(small.convolve(convolutions), small.truth)
    assert [record.getMessage() for record in caplog.records] == [
        "convolutions go the plain way: No module named 'triton'"
    ]


@pytest.mark.parametrize("slope", [1.0, 0.2, 0.0, torch.linspace(-0.5, 1.5, 8)], ids=["none", "leaky", "relu", "prelu"])
@pytest.mark.parametrize("residuals", [0, 1, 2])
def test_the_plain_way_is_what_the_modules_do(slope: float | Tensor, residuals: int) -> None:
    pictures = Pictures(side=9)
    others = [Residual(scale, torch.randn(1, 8, 9, 9)) for scale in (0.2, 0.3)[:residuals]]
    before = pictures.source.clone()
    plain_convolution(pictures.source, pictures.target, pictures.weight, pictures.bias, slope, others)
    result = F.conv2d(pictures.source, pictures.weight, pictures.bias, padding=1)
    per_channel = slope if isinstance(slope, Tensor) else torch.full((8,), slope)
    result = torch.where(result < 0, result * per_channel[:, None, None], result)
    for scale, tensor in others:
        result = result * scale + tensor
    torch.testing.assert_close(pictures.target, result)
    assert torch.equal(pictures.source, before)
