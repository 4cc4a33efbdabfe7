"""In which language ComfyUI's user is told something, and errors that leave a node."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import zoo

from cudaspeed import nodes
from cudaspeed.api.checks import check_number
from cudaspeed.api.errors import BadImageError, BadModelError, BadOptionError, MissingLibraryError, OutputError
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.canvas.widgets import options_of
from cudaspeed.host import language as module
from cudaspeed.host import settings
from cudaspeed.host.language import errors_in_users_language, in_users_language, language
from cudaspeed.images.validate import validate_image
from cudaspeed.models.loader import check_model, load_model

SAID = "tile size is 30.5 (float, not int); choose a whole number from 0 to 16384 (0 = automatic)"


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what a user has set in a ComfyUI."""
    (tmp_path / "default").mkdir()
    monkeypatch.setattr(settings, "inside_comfyui", lambda: True)
    monkeypatch.setitem(sys.modules, "folder_paths", SimpleNamespace(get_user_directory=lambda: str(tmp_path)))
    settings._read.cache_clear()

    def are(**values: Any) -> None:
        content = {name.replace("_", "."): value for name, value in values.items()}
        (tmp_path / "default" / "comfy.settings.json").write_text(json.dumps(content), encoding="utf-8")
        settings._read.cache_clear()

    return are


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "en"),
        ({"Comfy_Locale": "zh"}, "zh"),
        ({"Comfy_Locale": "zh-TW"}, "en"),
        ({"Comfy_Locale": "ja"}, "en"),
        ({"Comfy_Locale": 7}, "en"),
        ({"Comfy_Locale": "zh", "CUDAspeed_Language": "auto"}, "zh"),
        ({"Comfy_Locale": "zh", "CUDAspeed_Language": "en"}, "en"),
        ({"Comfy_Locale": "zh-TW", "CUDAspeed_Language": "zh"}, "zh"),
        ({"Comfy_Locale": "zh", "CUDAspeed_Language": "klingon"}, "zh"),
        ({"Comfy_Locale": "../zh"}, "en"),
    ],
)
def test_the_language_is_ours_if_set_else_comfyuis(
    users: Callable[..., None], values: dict[str, Any], expected: str
) -> None:
    users(**values)
    assert language() == expected


def test_outside_comfyui_all_is_english() -> None:
    assert language() == "en"
    assert in_users_language("preparing") == "preparing"


def test_an_error_says_it_in_chinese_and_stays_what_it_is(
    users: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    users(Comfy_Locale="zh")
    cause = OSError("why")
    with (
        caplog.at_level(logging.ERROR, "cudaspeed"),
        pytest.raises(BadOptionError) as caught,
        errors_in_users_language(),
    ):
        try:
            check_number("tile size", 30.5, 0, 16384)
        except BadOptionError as error:
            raise error from cause
    error = caught.value
    assert str(error) == "分块尺寸 tile_size 为 30.5（float，不是整数）；请选择 0 到 16384 的整数（0 = 自动）"
    assert f"{error}" == str(error)
    assert type(error) is BadOptionError
    assert error.args == (SAID,)
    assert error.english == SAID
    assert error.__cause__ is cause
    assert "check_number" in "".join(traceback.format_tb(error.__traceback__))
    assert [record.getMessage() for record in caplog.records] == [f"BadOptionError: {SAID}"]


def test_it_is_told_once_however_many_watch(users: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    users(Comfy_Locale="zh")

    @errors_in_users_language()
    def inner() -> None:
        raise OutputError("the film cannot be written: why")

    with caplog.at_level(logging.ERROR, "cudaspeed"), pytest.raises(OutputError, match="无法写入视频：why"):
        errors_in_users_language()(inner)()
    assert len(caplog.records) == 1


@pytest.mark.parametrize("values", [{}, {"Comfy_Locale": "zh", "CUDAspeed_Language": "en"}])
def test_in_english_nothing_changes(
    users: Callable[..., None], values: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    users(**values)
    with pytest.raises(BadOptionError) as caught, errors_in_users_language():
        check_number("tile size", 30.5, 0, 16384)
    assert str(caught.value) == SAID
    assert not caplog.records


def test_errors_of_others_and_unknown_ones_stay_as_they_are(users: Callable[..., None]) -> None:
    users(Comfy_Locale="zh")
    for error in (RuntimeError("the disk is full"), KeyboardInterrupt(), BadImageError("something new")):
        with pytest.raises(type(error)) as caught, errors_in_users_language():
            raise error
        assert caught.value is error
        assert str(error) in ("the disk is full", "", "something new")


def test_a_lack_of_memory_that_we_tell_is_told_in_chinese(users: Callable[..., None]) -> None:
    users(Comfy_Locale="zh")
    with pytest.raises(MemoryError, match=r"^/m/a.pth：没有足够的内存加载模型"), errors_in_users_language():
        raise MemoryError("/m/a.pth: there is no memory for the model; close other programs")
    with pytest.raises(MemoryError) as caught, errors_in_users_language():
        raise MemoryError
    assert caught.value.args == ()


@pytest.mark.parametrize("content", ["", "[1]", '{"a": 1}', '{"{a}": "b"}', "\xff"])
def test_a_damaged_catalogue_is_english_with_one_warning(
    users: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    content: str,
) -> None:
    users(Comfy_Locale="zh")
    (tmp_path / "zh").mkdir()
    (tmp_path / "zh" / "texts.json").write_text(content, encoding="latin-1")
    monkeypatch.setattr(module, "_LOCALES", tmp_path)
    module._catalogue.cache_clear()
    assert [in_users_language("preparing") for _ in range(3)] == ["preparing"] * 3
    module._catalogue.cache_clear()
    assert len(caplog.records) == 1
    assert "texts.json" in caplog.text


def _picture(value: float, shape: tuple[int, ...] = (1, 4, 4, 3)) -> None:
    validate_image(torch.full(shape, value))


@pytest.mark.parametrize(
    ("act", "error", "parts"),
    [
        (lambda folder: _picture(float("nan")), BadImageError, ("第 0 帧有 48 个值为 NaN", "半精度的 VAE 解码")),
        (lambda folder: _picture(200.0), BadImageError, ("第 0 帧的数值为 200 到 200", "请除以 255")),
        (lambda folder: _picture(0.5, (1, 4, 4, 5)), BadImageError, ("图像有 5 个通道", "支持 1 到 4 个")),
        (lambda folder: validate_image(torch.zeros(1, 4, 4, 3).byte()), BadImageError, ("torch.uint8", "浮点数")),
        (lambda folder: check_model("x"), BadModelError, ("upscale_model 是 str",)),
        (lambda folder: load_model(folder / "no.pth"), BadModelError, ("不存在",)),
        (lambda folder: load_model(_file(folder, b"<html>")), BadModelError, ("是网页，不是模型",)),
        (lambda folder: load_model(_file(folder, b"")), BadModelError, ("文件是空的",)),
        (lambda folder: load_model(_file(folder, b"Rar!....")), BadModelError, ("是 RAR 压缩包；请解压",)),
        (lambda folder: load_model(_file(folder, b"\x80\x02cos\nsystem\n.")), BadModelError, ("os.system", "已拒绝")),
        (
            lambda folder: load_model(_file(folder, b"PK\x03\x04....")),
            BadModelError,
            ("已损坏或不是模型文件", "不完整"),
        ),
        (lambda folder: UpscaleOptions(tile=-1), BadOptionError, ("分块尺寸 tile_size 为 -1", "0 到")),
        (lambda folder: UpscaleOptions(precision="fp8"), BadOptionError, ("precision 为 'fp8'", "中选择")),  # type: ignore[arg-type]
        (
            lambda folder: options_of({"scale_by": 2.0, "target_width": 10}),
            BadOptionError,
            ("scale_by 为 2", "目标尺寸为 10x", "另一项设为 0"),
        ),
    ],
)
def test_what_people_do_wrong_is_told_in_chinese(
    users: Callable[..., None],
    tmp_path: Path,
    act: Callable[[Path], object],
    error: type[Exception],
    parts: tuple[str, ...],
) -> None:
    users(Comfy_Locale="zh")
    with pytest.raises(error) as caught, errors_in_users_language():
        act(tmp_path)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("node", "method", "inputs"),
    [
        (nodes.UpscaleImageCUDAspeed, "upscale", {"image": torch.zeros(1, 4, 4, 3), "precision": "fp8"}),
        (nodes.UpscaleVideoCUDAspeed, "upscale", {"video": "film", "precision": "fp8"}),
        (nodes.WarmUpUpscalerCUDAspeed, "warm_up", {"width": 8, "height": 8, "precision": "fp8"}),
    ],
)
def test_every_node_tells_its_errors_in_chinese(
    users: Callable[..., None], node: type, method: str, inputs: dict[str, Any]
) -> None:
    users(Comfy_Locale="zh")
    with pytest.raises((BadOptionError, MissingLibraryError), match=r"中选择|不可用"):
        getattr(node(), method)(zoo.compact(), **inputs)


def _file(folder: Path, content: bytes) -> Path:
    path = folder / "模型 [x4]; a (1).pth"
    path.write_bytes(content)
    return path
