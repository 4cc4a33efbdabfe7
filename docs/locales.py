"""Writes what ComfyUI's page shows of nodes, settings and commands into locales/: `python docs/locales.py`.

English is what the code says, so that it cannot drift: the node classes', and, of settings and commands, what stands in
`web/js`. All other languages are written by hand. What they say of what is there no more is taken out, and what they
say of the same English elsewhere is taken over, but for nodes of which they say nothing. Chinese says all. Where words
lack then, in the code or in Chinese, they are named, and it ends with 1; so it does where the English was changed and a
translation was not. `--check` changes nothing, and tells what it would.

By `translated.json`, which has what every translation and its English were when they last fitted: who finds a
translation right as it is takes its line out there, and runs this.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from cudaspeed import nodes

ROOT = Path(__file__).absolute().parent.parent
LOCALES, SCRIPTS, HELP = ROOT / "locales", ROOT / "web" / "js", ROOT / "web" / "docs"
FILES = ("nodeDefs", "main", "settings", "commands")
COMPLETE = "zh"
FITTED = Path(__file__).absolute().with_name("translated.json")

Words = dict[str, str]
"""What a file of a language says: where ("UpscaleImageCUDAspeed.inputs.image.tooltip") -> text."""


def english() -> dict[str, Words]:
    """What each of `FILES` says, by the code; an empty text where the code should say something."""
    words: dict[str, Words] = {file: {} for file in FILES}
    for name, kind in nodes.NODE_CLASS_MAPPINGS.items():
        words["nodeDefs"] |= _of_node(name, kind)
    for path in sorted(SCRIPTS.rglob("*.js")):
        for told in literals(path.read_text(encoding="utf-8")):
            key = _key(told["id"][0])
            if "type" in told:
                words["settings"] |= _of_setting(key, told)
                labels = told.get("category") or told["id"][0].split(".")
                words["main"] |= {f"settingsCategories.{_key(label)}": label for label in labels[:2]}
            elif "label" in told:
                words["commands"] |= {f"{key}.{word}": told[word][0] for word in ("label", "tooltip") if word in told}
    return words


def seen_at_first() -> set[str]:
    """Where other languages say at least something of a node, if they do so at all: its name, what it is for, and what
    of it is not folded away."""
    found: set[str] = set()
    for name, kind in nodes.NODE_CLASS_MAPPINGS.items():
        found |= {f"{name}.display_name", f"{name}.description"}
        for widget, shown in _inputs(kind):
            if not shown.get("advanced"):
                found |= {f"{name}.inputs.{_key(widget)}.{word}" for word in ("name", "tooltip")}
    return found


def _of_node(name: str, kind: Any) -> Words:
    words = {"display_name": nodes.NODE_DISPLAY_NAME_MAPPINGS.get(name, "")}
    words["description"] = getattr(kind, "DESCRIPTION", "")
    for widget, shown in _inputs(kind):
        words |= {f"inputs.{_key(widget)}.name": widget, f"inputs.{_key(widget)}.tooltip": shown.get("tooltip", "")}
    outputs, tooltips = getattr(kind, "RETURN_NAMES", kind.RETURN_TYPES), getattr(kind, "OUTPUT_TOOLTIPS", ())
    for number, (output, tooltip) in enumerate(zip_longest(outputs, tooltips, fillvalue="")):
        words |= {f"outputs.{number}.name": output, f"outputs.{number}.tooltip": tooltip}
    return {f"{_key(name)}.{place}": text for place, text in words.items()}


def _inputs(kind: Any) -> list[tuple[str, dict[str, Any]]]:
    groups = kind.INPUT_TYPES()
    shown = {**groups.get("required", {}), **groups.get("optional", {})}
    return [(name, {} if len(widget) == 1 else widget[1]) for name, widget in shown.items()]


def _of_setting(key: str, told: Mapping[str, list[str]]) -> Words:
    words = {f"{key}.{word}": told[word][0] for word in ("name", "tooltip") if word in told}
    return {**words, **{f"{key}.options.{_key(text)}": text for text in told.get("options", [])}}


def _key(name: str) -> str:
    """As the page looks it up."""
    return name.replace(".", "_")


_TOLD = re.compile(r"\bid\s*:\s*[\"'`]CUDAspeed\.")
_OBJECT = re.compile(r"\{\s*id\s*:\s*([\"'])CUDAspeed\.[\w.]+\1")
_TEXT = r"\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'|`(?:[^`\\]|\\.)*`"
_TOKEN = re.compile(rf"//[^\n]*|/\*.*?\*/|({_TEXT}|[\w$]+|\S)", re.DOTALL)


def literals(source: str) -> Iterator[dict[str, list[str]]]:
    """The objects in a page script that begin with an `id` of ours: field -> the texts that it is made of, one for a
    text (a sum of texts is one), all of a list's; of `options` that are objects, their `text`. Raises `ValueError`
    where an `id` of ours stands elsewhere in an object, or is made at run time: nobody could look it up."""
    objects = [*_OBJECT.finditer(source)]
    if len(objects) != len(_TOLD.findall(source)):
        raise ValueError("an id that begins with CUDAspeed. is a plain text, and the first that an object says")
    for found in objects:
        tokens, depth = [], 0
        for token in _TOKEN.finditer(source, found.start()):
            depth += (token[0] in ("{", "[", "(")) - (token[0] in ("}", "]", ")"))
            if not depth:
                break
            tokens += [token[1]] if token[1] else []
        yield {name: _texts(name, value) for name, value in _fields(tokens[1:]).items()}


def _fields(tokens: list[str]) -> dict[str, list[str]]:
    """The fields of an object: name -> the tokens of its value. Of methods there is nothing."""
    fields: dict[str, list[str]] = {}
    depth, name = 0, ""
    for before, token in zip(["", *tokens], tokens, strict=False):
        if not depth and token == ",":
            name = ""
        elif not depth and token == ":" and not name:
            name = before.strip("\"'")
        elif name:
            fields.setdefault(name, []).append(token)
        depth += (token in ("{", "[", "(")) - (token in ("}", "]", ")"))
    return fields


def _texts(name: str, value: list[str]) -> list[str]:
    """What texts a value is made of."""
    if name == "options" and "text" in value:
        value = [value[place + 2] for place, token in enumerate(value) if token == "text"]
    texts = [_unquoted(token) for token in value if token[0] in "\"'`"]
    return ["".join(texts)] if "+" in value and "[" not in value else texts


def _unquoted(text: str) -> str:
    inside = re.sub(r"\\(['`])", r"\1", text[1:-1])
    return json.loads('"' + (inside if text[0] == '"' else inside.replace('"', '\\"')) + '"')


def read(language: str, file: str) -> Words:
    """What a language's file says; nothing where there is none."""
    path = LOCALES / language / f"{file}.json"
    return dict(flat(json.loads(path.read_text(encoding="utf-8")))) if path.is_file() else {}


def flat(words: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for key, value in words.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{before}{key}.")
        else:
            yield before + key, value


def written(words: Words) -> str:
    """The text of a file that says this."""
    nested: dict[str, Any] = {}
    for place, text in words.items():
        *way, last = place.split(".")
        inner = nested
        for key in way:
            inner = inner.setdefault(key, {})
        inner[last] = text
    return json.dumps(nested, ensure_ascii=False, indent=2) + "\n"


def completed(words: Words, by: Words) -> Words:
    """`words` in the order of `by`, the English ones, without what is not there, and with what they say of the same
    English elsewhere."""
    said = {by[place]: text for place, text in words.items() if place in by}
    return {place: words.get(place, said.get(text)) for place, text in by.items() if place in words or text in said}


def of_known_nodes(words: Words, by: Words) -> Words:
    """What of `by` is of the nodes that `words` say something of."""
    known = {place.split(".")[0] for place in words}
    return {place: text for place, text in by.items() if place.split(".")[0] in known}


def fitting(texts: Mapping[str, tuple[str, str]], known: Words) -> tuple[Words, list[str]]:
    """Of translations, where -> (English, translation): what is to be kept of each, "digest of the English, of the
    translation", and where the English was changed and the translation was not, by what is `known` of before."""
    kept, stale = {}, []
    for place, (text, translation) in texts.items():
        now = f"{_digest(text)} {_digest(translation)}"
        was = known.get(place, now)
        changed, renewed = (one != other for one, other in zip(was.split(), now.split(), strict=True))
        kept[place] = was if changed and not renewed else now
        if changed and not renewed:
            stale.append(f"{place}: the English is another one now, and the translation is not: {text}")
    return kept, stale


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def languages() -> list[str]:
    """All but English."""
    return sorted(path.name for path in LOCALES.iterdir() if path.is_dir() and path.name != "en")


def wanted() -> tuple[dict[Path, str], list[str]]:
    """What files are to say, and what nobody can say but by hand: one line for each text that lacks, in the code or in
    Chinese."""
    files, lacking = {}, []
    texts: dict[str, tuple[str, str]] = {}
    for file, words in english().items():
        files[LOCALES / "en" / f"{file}.json"] = written(words)
        lacking += [f"the code: {place} of {file}" for place, text in words.items() if not text]
        for language in languages():
            known = read(language, file)
            known = completed(known, words if language == COMPLETE else of_known_nodes(known, words))
            if known or language == COMPLETE:
                files[LOCALES / language / f"{file}.json"] = written(known)
                texts |= {f"{language}/{file}.json: {place}": (words[place], text) for place, text in known.items()}
            if language == COMPLETE:
                lacking += [f"{language}/{file}.json: {place}: {words[place]}" for place in words.keys() - known.keys()]
    for page in sorted(HELP.glob("*/en.md")):  # for languages that have no page of their own
        files[HELP / f"{page.parent.name}.md"] = page.read_text(encoding="utf-8")
    kept, stale = fitting(texts, json.loads(FITTED.read_text(encoding="utf-8")) if FITTED.is_file() else {})
    files[FITTED] = json.dumps(kept, ensure_ascii=False, indent=0, sort_keys=True) + "\n"
    return files, sorted([*lacking, *stale])


def main() -> None:
    files, lacking = wanted()
    if sys.argv[1:] == ["--check"]:
        told = [path for path, text in files.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
        lacking += [
            f"{path.relative_to(ROOT)} is out of date; `python docs/locales.py` writes it anew" for path in told
        ]
    else:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    sys.exit("\n".join(lacking) or 0)


if __name__ == "__main__":
    main()
