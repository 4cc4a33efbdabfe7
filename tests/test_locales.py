"""What ComfyUI's page shows of the pack, in its languages: complete, right as far as a test can see, and found."""

from __future__ import annotations

import json
import re
from pathlib import Path

import catalogue
import pytest

from cudaspeed import nodes

locales = catalogue.locales()
ROOT = catalogue.ROOT
# The languages of ComfyUI's page.
PAGE = {"ar", "en", "es", "fa", "fr", "he", "ja", "ko", "pt-BR", "ru", "tr", "zh", "zh-TW"}
OTHERS = [language for language in locales.languages() if language != "zh"]
# Names that are the same in every language.
PROPER = {"CUDAspeed", "English", "中文"}
CHINESE = re.compile(r"[\u4e00-\u9fff]")
ENGLISH = locales.english()
each_kind = pytest.mark.parametrize("kind", nodes.NODE_CLASS_MAPPINGS)


def choices_of(node: str) -> set[str]:
    """Those of all its lists, but not of models."""
    groups = nodes.NODE_CLASS_MAPPINGS[node].INPUT_TYPES()
    kinds = [widget[0] for group in groups.values() for name, widget in group.items() if name != "model_name"]
    return {choice for kind in kinds if isinstance(kind, list) for choice in kind}


def words_in(text: str) -> set[str]:
    return set(re.findall(r"[a-z][\w-]*", text))


def test_english_is_what_the_code_says_and_chinese_says_all_of_it() -> None:
    """`python docs/locales.py` writes what can be written, and names what somebody has to say in Chinese."""
    files, lacking = locales.wanted()
    outdated = [
        str(path.relative_to(ROOT))
        for path, text in files.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    assert not lacking, "\n" + "\n".join(lacking)
    assert not outdated, "run `python docs/locales.py`, which writes them anew: " + ", ".join(outdated)


def test_no_language_speaks_of_what_there_is_not() -> None:
    """`python docs/locales.py` takes it out."""
    stale = [
        f"{language}/{file}.json: {place}"
        for language in locales.languages()
        for file in locales.FILES
        for place in locales.read(language, file).keys() - ENGLISH[file].keys()
    ]
    assert not stale, "\n" + "\n".join(sorted(stale))


def test_what_lacks_is_named_and_what_is_too_much_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    english = {"A.inputs.x.name": "x", "A.inputs.y.name": "y", "B.inputs.x.name": "x", "B.description": "Does b."}
    chinese = {"A.inputs.x.name": "甲", "C.inputs.z.name": "丙", "B.description": "做乙。"}
    completed = locales.completed(chinese, english)
    assert completed == {"A.inputs.x.name": "甲", "B.inputs.x.name": "甲", "B.description": "做乙。"}
    monkeypatch.setattr(locales, "english", lambda: {"nodeDefs": english})
    monkeypatch.setattr(locales, "read", lambda language, file: chinese if language == "zh" else {})
    _, lacking = locales.wanted()
    assert lacking == ["zh/nodeDefs.json: A.inputs.y.name: y"]


def test_english_that_was_changed_without_its_translation_is_named() -> None:
    before, none = locales.fitting({"zh: a": ("Tile size", "分块尺寸"), "zh: b": ("Width", "宽度")}, {})
    assert none == []
    now = {"zh: a": ("Largest tile size", "分块尺寸"), "zh: b": ("Width", "宽度")}
    kept, (told,) = locales.fitting(now, before)
    assert told.startswith("zh: a: the English is another one now") and "Largest tile size" in told
    assert kept == before, "nor is it told only once"
    renewed = {"zh: a": ("Largest tile size", "最大分块尺寸"), "zh: b": ("Width", "宽度（像素）")}
    kept, none = locales.fitting(renewed, before)
    assert none == [] and locales.fitting(renewed, kept) == (kept, [])
    assert locales.fitting(now, {"zh: b": before["zh: b"]})[1] == [], "found right as it is"


def test_what_the_code_does_not_say_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        RETURN_TYPES = ("IMAGE", "MASK")
        OUTPUT_TOOLTIPS = ("A picture.",)

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, dict[str, tuple[object, ...]]]:
            return {"required": {"image": ("IMAGE",)}, "optional": {"size": ("INT", {"default": 1})}}

    monkeypatch.setattr(locales.nodes, "NODE_CLASS_MAPPINGS", {"Silent": Silent})
    _, lacking = locales.wanted()
    silent = ("description", "display_name", "inputs.image.tooltip", "inputs.size.tooltip", "outputs.1.tooltip")
    assert [line for line in lacking if line.startswith("the code")] == [
        f"the code: Silent.{place} of nodeDefs" for place in silent
    ]


def test_the_languages_are_those_of_the_page() -> None:
    assert {"en", "zh"} <= {path.name for path in locales.LOCALES.iterdir()} <= PAGE


@pytest.mark.parametrize("file", locales.FILES)
def test_chinese_is_chinese(file: str) -> None:
    words = locales.read("zh", file)
    assert not {place: text for place, text in words.items() if not CHINESE.search(text) and text not in PROPER}


@pytest.mark.parametrize("language", locales.languages())
def test_the_same_english_is_said_in_the_same_words(language: str) -> None:
    """Of nodes that have a widget in common."""
    for file in locales.FILES:
        words: dict[str, set[str]] = {}
        for place, text in locales.read(language, file).items():
            words.setdefault(ENGLISH[file].get(place, place), set()).add(text)
        assert not {text: said for text, said in words.items() if len(said) > 1}


@pytest.mark.parametrize("language", locales.languages())
def test_translations_name_the_numbers_choices_and_widgets_that_the_english_names(language: str) -> None:
    """The page does not translate choices, so tooltips name them as they are."""
    for place, text in locales.read(language, "nodeDefs").items():
        english, node = ENGLISH["nodeDefs"].get(place), place.split(".")[0]
        if english and place.endswith("tooltip"):
            assert set(re.findall(r"\d+", text)) == set(re.findall(r"\d+", english)), f"{language} {place}: {text}"
            named = {word for word in choices_of(node) if re.search(rf"\b{word}\b:", english)}
            assert named <= words_in(text), f"{language} {place}: {text}"


@pytest.mark.parametrize("language", locales.languages())
def test_no_text_is_taken_for_a_formula(language: str) -> None:
    """The page's library reads {names}, @:links and | choices in texts."""
    for file in locales.FILES:
        assert not {text for text in locales.read(language, file).values() if re.search(r"[{}@|]", text)}


@pytest.mark.parametrize("language", OTHERS)
def test_other_languages_say_of_a_node_what_is_seen_at_first_or_nothing(language: str) -> None:
    words = locales.read(language, "nodeDefs")
    known = {place.split(".")[0] for place in words}
    assert {"UpscaleImageCUDAspeed", "UpscaleVideoCUDAspeed", "WarmUpUpscalerCUDAspeed"} <= known
    assert not {place for place in locales.seen_at_first() if place.split(".")[0] in known} - words.keys()
    assert not {
        place for place, text in words.items() if place.endswith("tooltip") and text == ENGLISH["nodeDefs"].get(place)
    }


def test_errors_call_a_widget_as_it_is_read_on_the_node() -> None:
    """A tile size is "分块尺寸 tile_size" in a Chinese error: what stands on the widget, and its name."""
    told = json.loads((ROOT / "locales" / "zh" / "texts.json").read_text(encoding="utf-8"))
    read = locales.read("zh", "nodeDefs")
    named = {
        told[text]: text.replace(" ", "_")
        for text in told
        if f"UpscaleImageCUDAspeed.inputs.{text.replace(' ', '_')}.name" in read
    }
    assert len(named) >= 6
    assert {said: f"{read[f'UpscaleImageCUDAspeed.inputs.{name}.name']} {name}" for said, name in named.items()} == {
        said: said for said in named
    }


def test_core_keeps_its_words_for_the_loader_whose_id_is_its_own() -> None:
    """ComfyUI merges what all packs say: ours would replace its own."""
    if "UpscaleModelLoader" not in nodes.NODE_CLASS_MAPPINGS:
        return
    place = "UpscaleModelLoader."
    for language, name, widget in (("en", "Load Upscale Model", "model_name"), ("zh", "加载放大模型", "模型名称")):
        words = locales.read(language, "nodeDefs")
        assert (words[place + "display_name"], words[place + "inputs.model_name.name"]) == (name, widget)
    assert not [language for language in OTHERS if any(p.startswith(place) for p in locales.read(language, "nodeDefs"))]


@each_kind
def test_every_node_is_found_in_english_and_chinese(kind: str) -> None:
    aliases = nodes.NODE_CLASS_MAPPINGS[kind].SEARCH_ALIASES
    assert len({*aliases}) == len(aliases), "each once"
    assert [alias for alias in aliases if CHINESE.search(alias)]
    assert [alias for alias in aliases if alias.isascii()]
    assert all(alias == alias.strip().lower() for alias in aliases)
    json.dumps(aliases)


def test_the_upscaling_nodes_are_found_by_what_people_look_for() -> None:
    wanted = {"esrgan", "super resolution", "hires", "enhance", "upscaler", "real-esrgan", "swinir", "4x"}
    wanted |= {"放大", "超分", "高清修复"}
    assert wanted | {"seamless", "tile"} <= {*nodes.UpscaleImageCUDAspeed.SEARCH_ALIASES}
    assert wanted <= {*nodes.UpscaleVideoCUDAspeed.SEARCH_ALIASES}


@each_kind
def test_every_output_has_a_tooltip(kind: str) -> None:
    node = nodes.NODE_CLASS_MAPPINGS[kind]
    assert len(node.OUTPUT_TOOLTIPS) == len(node.RETURN_TYPES)
    assert all(node.OUTPUT_TOOLTIPS)


def test_what_page_scripts_say_of_settings_and_commands_is_read() -> None:
    script = """
        const quotes = /["'`]{2}/;
        app.registerExtension({ name: "cudaspeed.monitor", settings: [
            { id: "CUDAspeed.Monitor.Rate", name: "Seconds " + "between", // a "comment"
              category: ["CUDAspeed", "Monitor", "Rate"], tooltip: 'It\\'s "fast"', type: "combo",
              options: [{ text: "Half", value: "0.5" }, { text: "One", value: "1" }],
              onChange(value) { if (value > 1) { start({ a: "b" }); } } },
            { id: "CUDAspeed.Language", type: "combo", name: "Language", options: ["auto", "en"], value: "auto" },
        ],
        commands: [{ id: "CUDAspeed.Explain", label: "Explain last run", function: () => explain("x") }] });
    """
    rate, language, command = locales.literals(script)
    assert rate["name"] == ["Seconds between"] and rate["tooltip"] == ['It\'s "fast"']
    assert rate["category"] == ["CUDAspeed", "Monitor", "Rate"] and rate["options"] == ["Half", "One"]
    assert language["options"] == ["auto", "en"] and language["type"] == ["combo"]
    assert command["label"] == ["Explain last run"] and "type" not in command
    for hidden in ('{ name: "x", id: "CUDAspeed.A" }', "{ id: `CUDAspeed.${name}` }"):
        with pytest.raises(ValueError, match="plain text, and the first"):
            [*locales.literals(hidden)]


def test_the_words_of_settings_lie_where_the_page_looks_them_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "settings.js").write_text(
        'x = [{ id: "CUDAspeed.Monitor.Rate", name: "Rate", type: "combo", options: ["0.5 s"], tooltip: "How often." },'
        '{ id: "CUDAspeed.Explain", label: "Explain last run" }]'
    )
    monkeypatch.setattr(locales, "SCRIPTS", tmp_path)
    words = locales.english()
    assert words["settings"] == {
        "CUDAspeed_Monitor_Rate.name": "Rate",
        "CUDAspeed_Monitor_Rate.tooltip": "How often.",
        "CUDAspeed_Monitor_Rate.options.0_5 s": "0.5 s",
    }
    assert words["commands"] == {"CUDAspeed_Explain.label": "Explain last run"}
    assert words["main"] == {"settingsCategories.CUDAspeed": "CUDAspeed", "settingsCategories.Monitor": "Monitor"}


def test_settings_that_are_asked_for_are_there_to_be_set() -> None:
    files = [path for path in ROOT.rglob("*.py") if not {"tests", ".venv", "build"} & {*path.relative_to(ROOT).parts}]
    asked = {
        name for path in files for name in re.findall(r'\bsetting\(\s*"([^"]+)"', path.read_text(encoding="utf-8"))
    }
    known = {place.split(".")[0] for place in ENGLISH["settings"]}
    assert not {name for name in asked if name.startswith("CUDAspeed.") and name.replace(".", "_") not in known}
