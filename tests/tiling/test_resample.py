"""Pictures made another size: by the filters that Pillow has, by exact areas, and the same however the rows come."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import zoo
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cudaspeed.api.resize import Resample
from cudaspeed.pipeline.resizing import FrameResizer
from cudaspeed.tiling.filters import reach
from cudaspeed.tiling.fit import Resampling, Sampling
from cudaspeed.tiling.resample import Resampler

CPU = torch.device("cpu")
PILLOW = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}
SIZES = [(37, 53), (64, 48), (1, 1), (1, 90), (200, 3)]
TARGETS = [(37, 53), (18, 26), (19, 71), (111, 160), (1, 1), (5, 1), (1, 77), (200, 13)]


def axis(size: int, resized: float, start: int = 0, length: int | None = None, **more: object) -> Sampling:
    return Sampling(size, resized, start, int(resized) if length is None else length, **more)  # type: ignore[arg-type]


def resampled(frame: Tensor, rows: Sampling, columns: Sampling, resample: Resample, step: int = 10**6) -> Tensor:
    """`frame` [H, W, C] through a resampler, `step` rows at a time; every new row comes once, in order."""
    resampler = Resampler(Resampling(rows, columns, resample), CPU)
    way, made = resampler.begin(), []
    for some in resampler.pad(frame).split(step):
        for first, new in way.add(some):
            assert first == sum(map(len, made))
            made.append(new)
    return torch.cat(made)


def whole(frame: Tensor, target: tuple[int, int], resample: Resample, step: int = 10**6) -> Tensor:
    rows, columns = (axis(size, resized) for size, resized in zip(frame.shape[:2], target, strict=True))
    return resampled(frame, rows, columns, resample, step)


def by_pillow(frame: Tensor, target: tuple[int, int], resample: str, box: tuple[float, ...] | None = None) -> Tensor:
    planes = [Image.fromarray(plane.numpy()) for plane in frame.permute(2, 0, 1).contiguous()]
    assert {plane.mode for plane in planes} == {"F"}
    made = [np.asarray(plane.resize(target[::-1], PILLOW[resample], box=box)) for plane in planes]
    return torch.from_numpy(np.stack(made, -1))


def furthest(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


@pytest.mark.parametrize("resample", ["bicubic", "lanczos"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("size", SIZES)
def test_bicubic_and_lanczos_are_pillows(size: tuple[int, int], target: tuple[int, int], resample: Resample) -> None:
    frame = zoo.photograph(*size)[0]
    assert furthest(whole(frame, target, resample), by_pillow(frame, target, resample)) <= 1e-5


@pytest.mark.parametrize("resample", ["bicubic", "lanczos"])
def test_a_part_is_what_it_is_in_the_whole(resample: Resample) -> None:
    """Of 90.5 x 60.25 new pixels those from (11, 7) on, as Pillow makes them of a box of the picture."""
    frame = zoo.photograph(64, 80)[0]
    made = resampled(frame, axis(64, 60.25, 7, 40), axis(80, 90.5, 11, 61), resample)
    box = tuple(
        place * have / want for place, have, want in ((11, 80, 90.5), (7, 64, 60.25), (72, 80, 90.5), (47, 64, 60.25))
    )
    assert furthest(made, by_pillow(frame, (40, 61), resample, box)) <= 1e-5


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 7])
def test_area_is_the_mean_of_a_block(factor: int) -> None:
    frame = zoo.photograph(12 * factor, 20 * factor)[0]
    blocks = frame.double().view(12, factor, 20, factor, 3).mean((1, 3)).float()
    assert furthest(whole(frame, (12, 20), "area"), blocks) <= 1e-6


@pytest.mark.parametrize("size", [(7, 5), (33, 47)])
@pytest.mark.parametrize("target", [(3, 2), (5, 4), (1, 1), (7, 5)])
def test_area_is_the_mean_of_what_a_pixel_covers(size: tuple[int, int], target: tuple[int, int]) -> None:
    """Against a picture with every pixel repeated until all edges lie between two."""
    frame = zoo.photograph(*size)[0]
    fine = frame.double().repeat_interleave(target[0], 0).repeat_interleave(target[1], 1)
    blocks = fine.view(target[0], size[0], target[1], size[1], 3).mean((1, 3)).float()
    assert furthest(whole(frame, target, "area"), blocks) <= 1e-6


def test_area_enlarges_along_straight_lines() -> None:
    ramp = torch.linspace(0, 1, 9)[:, None, None].expand(9, 4, 1).contiguous()
    large = whole(ramp, (36, 16), "area")[:, 0, 0]
    inner = large[2:-2]
    assert torch.allclose(inner.diff(), torch.full((len(inner) - 1,), 1 / 32), atol=1e-6)
    assert furthest(large[:2], torch.zeros(2)) <= 1e-6


@pytest.mark.parametrize("resample", ["area", "bicubic", "lanczos"])
def test_nothing_changes_where_no_pixel_does(resample: Resample) -> None:
    frame = zoo.photograph(40, 30)[0]
    assert torch.equal(whole(frame, (40, 30), resample), frame)
    assert torch.equal(resampled(frame, axis(40, 40, 3, 20), axis(30, 30, 5, 25), resample), frame[3:23, 5:])


@pytest.mark.parametrize("resample", ["area", "bicubic", "lanczos"])
@pytest.mark.parametrize("level", [0.0, 0.25, 1.0])
def test_what_is_even_stays_so_up_to_the_edges(level: float, resample: Resample) -> None:
    frame = torch.full((50, 70, 3), level)
    for target in ((20, 31), (111, 150), (1, 1)):
        assert furthest(whole(frame, target, resample), torch.full((*target, 3), level)) <= 1e-6


@pytest.mark.parametrize("target", [(20, 31), (240, 260), (97, 111)])
def test_rows_may_come_in_any_pieces(target: tuple[int, int]) -> None:
    frame = zoo.photograph(90, 110)[0]
    at_once = whole(frame, target, "lanczos")
    for step in (1, 7, 64, 89):
        assert furthest(whole(frame, target, "lanczos", step), at_once) <= 1e-6


def test_the_rows_that_are_kept_are_few() -> None:
    """Of 4000 rows as many as the filter reaches over, at the width that they are to have."""
    resampler = Resampler(Resampling(axis(4000, 2000), axis(640, 320), "lanczos"), CPU)
    way, most = resampler.begin(), 0
    for rows in torch.zeros(4000, 640, 3).split(64):
        for _ in way.add(rows):
            pass
        most = max(most, way.kept_bytes)
    assert 0 < most <= 320 * 3 * 4 * 200


class Largest(TorchDispatchMode):
    """Sees the largest tensor that an operation makes, in `bytes`; parts of `given` are none."""

    def __init__(self, given: Tensor) -> None:
        super().__init__()
        self.bytes, self._given = 0, given.untyped_storage().data_ptr()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, (list, tuple)) else (result,):
            storage = made.untyped_storage()
            if storage.data_ptr() != self._given:
                self.bytes = max(self.bytes, storage.nbytes())
        return result


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (axis(300, 2400), axis(300, 2400)),
        (axis(300, 300, before=2000, after=2000), axis(500, 500)),
        (axis(1500, 10), axis(1500, 3000)),
        (axis(1500, 10, before=30_000, after=30_000), axis(1500, 10)),
        (axis(40, 10), axis(40, 10, before=50_000, after=50_000)),
    ],
    ids=["enlarged", "padded", "much fewer rows", "much smaller, and padded", "wide"],
)
def test_little_is_held_beside_the_result(rows: Sampling, columns: Sampling) -> None:
    frame = torch.zeros(rows.size, columns.size, 3)
    with Largest(frame) as seen:
        resizer = FrameResizer(Resampler(Resampling(rows, columns, "lanczos"), CPU), has_alpha=False)
        height = sum(len(new) for _, new in resizer.add(frame))
    assert height == rows.total
    assert seen.bytes <= 16 << 20


def test_rows_that_are_added_up_are_those_that_wait() -> None:
    frame = zoo.photograph(700, 900)[0]
    target = 9, 2000
    assert furthest(whole(frame, target, "lanczos", step=50), by_pillow(frame, target, "lanczos")) <= 1e-5


def test_a_callers_autocast_and_default_device_change_nothing() -> None:
    frame = zoo.photograph(40, 50)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.device("meta"):
        made = whole(frame, (60, 20), "bicubic")
    assert torch.equal(made, whole(frame, (60, 20), "bicubic"))


def test_empty_pixels_are_added_around() -> None:
    frame = 0.5 + 0.5 * zoo.photograph(20, 30)[0]
    rows, columns = axis(20, 40, before=100, after=3), axis(30, 45, before=7, after=70)
    made = resampled(frame, rows, columns, "bicubic", step=3)
    assert made.shape == (143, 122, 3)
    torch.testing.assert_close(made[100:140, 7:52], whole(frame, (40, 45), "bicubic"), atol=1e-6, rtol=0)
    made[100:140, 7:52] = 0
    assert not made.any()


@pytest.mark.parametrize("resample", ["area", "bicubic", "lanczos"])
@pytest.mark.parametrize("target", [(16, 40), (64, 80), (9, 30), (1, 2)])
def test_a_tileable_picture_stays_tileable(target: tuple[int, int], resample: Resample) -> None:
    """As the middle of nine of them."""
    frame = zoo.photograph(32, 40)[0]
    rows, columns = (axis(size, resized, wraps=True) for size, resized in zip(frame.shape[:2], target, strict=True))
    made = resampled(frame, rows, columns, resample, step=5)
    around = 1 + 2 * max(reach(resample, rows.ratio), reach(resample, columns.ratio)) // 32
    copies = 2 * around + 1
    tiled = whole(frame.repeat(copies, copies, 1), (copies * target[0], copies * target[1]), resample)
    middle = tiled[around * target[0] :, around * target[1] :][: target[0], : target[1]]
    assert furthest(made, middle) <= 1e-5
