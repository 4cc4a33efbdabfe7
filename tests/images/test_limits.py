"""What a file may ask for: one number, told with the value and with what raises it."""

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from cudaspeed.api.errors import BadImageError, BadOptionError
from cudaspeed.images.files import read_image
from cudaspeed.images.limits import DecodeLimits


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.bmp", "a.tif", "16.png", "16.tif"])
def test_pictures_beyond_the_limit_are_refused_and_what_raises_it_is_told(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.startswith("16"):
        encode = imagecodecs.png_encode if name.endswith("png") else imagecodecs.tiff_encode
        path.write_bytes(encode(np.zeros((1000, 1100, 3), np.uint16)))
    else:
        Image.new("RGB", (1100, 1000)).save(path)
    with pytest.raises(BadImageError, match=r"1100x1000 pixels, 1\.1 megapixels, more than the 1 .*--max-megapixels 2"):
        read_image(path, DecodeLimits(max_megapixels=1))
    assert read_image(path, DecodeLimits(max_megapixels=2)).pixels.shape == (1000, 1100, 3)
    assert read_image(path).warnings == ()


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.bmp", "a.tif"])
def test_pillows_own_limit_does_not_stand_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    Image.new("RGB", (300, 200)).save(tmp_path / name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    picture = read_image(tmp_path / name)
    assert (picture.pixels.shape, picture.warnings) == ((200, 300, 3), ())
    assert Image.MAX_IMAGE_PIXELS == 10


def test_the_limit_of_old_is_the_limit_when_nothing_is_said() -> None:
    assert DecodeLimits().pixels == 2 * 89478485
    with pytest.raises(BadImageError, match="178956971x1"):
        DecodeLimits().check_size(178956971, 1)
    DecodeLimits().check_size(178956970, 1)


@pytest.mark.parametrize("megapixels", [0, -1, float("nan"), float("inf")])
def test_a_limit_that_is_none_is_refused(megapixels: float) -> None:
    with pytest.raises(BadOptionError, match="max_megapixels"):
        DecodeLimits(megapixels)
