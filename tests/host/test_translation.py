"""Sentences in another language: what is known in whole, what is not as it was, whatever it is."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cudaspeed.host.translation import Catalogue, sentence_of

ROOT = Path(__file__).absolute().parent.parent.parent
TEXTS: dict[str, str] = json.loads((ROOT / "locales" / "zh" / "texts.json").read_text(encoding="utf-8"))
CHINESE = Catalogue(TEXTS)
_HOLE = re.compile(r"\{(\w+)(?:!(\w))?\}")
_IS_CHINESE = re.compile("[\u4e00-\u9fff]")
# What stands in a hole for the test, by what may stand in it.
_VALUES = {"": "'y-{}'", "n": "{}.5", "s": "fp{}", "t": "'y-{}'", "r": "the disk is full"}


def test_every_sentence_that_can_reach_a_node_is_in_the_catalogue_and_no_other() -> None:
    done = subprocess.run([sys.executable, ROOT / "docs" / "texts.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("language", sorted(path.parent.name for path in ROOT.glob("locales/*/texts.json")))
def test_every_translation_has_the_holes_of_its_sentence(language: str) -> None:
    texts = json.loads((ROOT / "locales" / language / "texts.json").read_text(encoding="utf-8"))
    for english, translation in texts.items():
        sentence_of(english, translation)
    assert list(texts) == sorted(texts)


@pytest.mark.parametrize("english", TEXTS)
def test_every_sentence_is_found_with_what_stands_in_its_holes(english: str) -> None:
    ways = dict(_HOLE.findall(TEXTS[english]))
    values = {name: _VALUES[way].format(11 + number) for number, (name, way) in enumerate(ways.items())}
    told = CHINESE.translated(english.format(**values))
    assert _IS_CHINESE.search(told) or not _IS_CHINESE.search(TEXTS[english])
    for name, value in values.items():
        assert ("磁盘已满" if ways[name] == "r" else value) in told


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("preparing", "正在准备"),
        (
            "tile 14/60, bf16, compiled, 38 MP/s, 1.9 of 7.4 GB, 12 s left",
            "分块 14/60，bf16，已编译，38 MP/s，1.9/7.4 GB，剩余 12 s",
        ),
        (
            "1280x852 -> 5120x3408, bf16, 30 tiles, 51.7 s, 2 tiles repaired",
            "1280x852 -> 5120x3408，bf16，30 个分块，51.7 s，修复了 2 个分块",
        ),
        (
            "measuring how much tiles must overlap, once for this model, 1 min 12 s so far",
            "正在测量分块所需的重叠，每个模型仅一次，已用 1 min 12 s",
        ),
        (
            "tile 3/5, 8 s left (kernels for this machine are being built, once)",
            "分块 3/5，剩余 8 s（正在为本机构建计算内核，仅此一次）",
        ),
        (
            "/m/a.pth: is an HDF5 file, as Keras writes them; use a .safetensors or .pth file of this model",
            "/m/a.pth：是 HDF5 文件（Keras 的格式）；请使用该模型的 .safetensors 或 .pth 文件",
        ),
        (
            "2 tile(s) had no detail in bf16 and were computed again in fp32; 1 tile(s) had wild values in bf16 "
            "winograd and were computed again in bf16 (the first in frame 0, row 1, column 2)",
            "2 个分块在 bf16 下出现问题（没有细节），已改用 fp32 重新计算；"
            "1 个分块在 bf16 winograd 下出现问题（极端异常的值），已改用 bf16 重新计算"
            "（第一个在第 0 帧，第 1 行，第 2 列）",
        ),
        (
            "the output's range was broken and was corrected by quantiles in frames 0-99, 140 and 160-163",
            "第 0-99，140和160-163 帧的输出数值范围异常，已按分位数校正",
        ),
        ("eager: the disk is full", "未编译：磁盘已满"),
    ],
)
def test_sentences_in_sentences_and_joined_ones_are_told_in_whole(english: str, chinese: str) -> None:
    assert CHINESE.translated(english) == chinese


@pytest.mark.parametrize(
    "text",
    [
        "",
        "CUDA error: an illegal memory access was encountered",
        "some tiles",
        "frame size mismatch",
        "tile 3/many",
        "tile 3/5, and then something new",
        "the disk is full, and something new",
        "something new; the disk is full",
        "something new (the disk is full)",
        "1.5 GB and something new of main memory",
        "2 tile(s) had something new in bf16 and were computed again in fp32",
        "{name} is {value}",
        "{",
        "正在准备",
    ],
)
def test_what_is_not_known_stays_english_in_whole(text: str) -> None:
    assert CHINESE.translated(text) == text


@pytest.mark.parametrize(
    "name", ["a b", "[x4] (1) {0}", "a; b", "a: b, c and d", "preparing", "the disk is full", "模型 é"]
)
def test_names_stay_as_they_are(name: str) -> None:
    assert CHINESE.translated(f"/m/{name}.pth: is not a file; name a model file").startswith(f"/m/{name}.pth：不是文件")
    assert (
        CHINESE.translated(f"codec is {name!r}; choose auto, or one of x")
        == f"codec 为 {name!r}；请选择 auto，或从 x 中选择"
    )


@pytest.mark.parametrize(
    "text",
    [
        "[({" * 3500,
        "; ".join(["the disk is full", "x"] * 600),
        ", ".join(["preparing"] * 200),
        ": ".join(["x"] * 3000),
        "a; b, c (d: e and f) " * 90,
        ": " * 990,
        "is an archive, but none that torch.save writes; unpack it and use the model file in it, " * 20,
        "it is is ; choose one of , : (" * 60 + ")",
        "/m/" + "[({ is ; choose one of " * 450 + ".pth: is not a file; name a model file",
        "tile 1/2, " * 190 + "x",
        "the output of frames " + "0-1, " * 380 + "2 and x is far out of range and unlike the input: is the model's "
        "file intact?",
    ],
    ids=range(11),
)
def test_hostile_texts_cost_little(text: str) -> None:
    """A hundred times what they take here: a way that grows with a power of the length takes minutes."""
    began = time.process_time()
    CHINESE.translated(text)
    assert time.process_time() - began < 3.0


@pytest.mark.parametrize(
    ("english", "translation"),
    [
        ("{a}{b}", "{a}{b}"),
        ("{a} is", "是"),
        ("is", "{a} 是"),
        ("{a} or {a}", "{a}"),
        ("{a", "{a}"),
        ("{a} x", "{a!q}"),
    ],
)
def test_what_cannot_be_filled_is_refused(english: str, translation: str) -> None:
    with pytest.raises(ValueError):
        sentence_of(english, translation)


def test_the_script_tells_what_lacks_and_what_nobody_says(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("texts_script", ROOT / "docs" / "texts.py")
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    (tmp_path / "api").mkdir()
    (tmp_path / "locales" / "zh").mkdir(parents=True)
    (tmp_path / "api" / "new.py").write_text(
        "from .errors import BadOptionError\n"
        "_REMEDY = 'leave it out'\n"
        "def check(context, name, more):\n"
        "    tail = f' ({more})' if more else ''\n"
        "    context.say('almost done')\n"
        "    raise BadOptionError(f'{name!r} is wrong{tail}; {_REMEDY}')\n"
    )
    (tmp_path / "locales" / "zh" / "texts.json").write_text('{"gone now": "没了", "almost done": "快好了"}')
    script.ROOT, script.LOCALES = tmp_path, tmp_path / "locales"
    script.PLACES = ("api",)
    lacking, stale = script.wrong("zh", script.Source().sentences())
    assert lacking == ["leave it out", "{name} is wrong ({more}); {remedy}", "{name} is wrong; {remedy}"]
    assert stale == ["gone now"]
