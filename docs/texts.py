"""Finds the sentences that can reach ComfyUI's page, and compares them with the catalogue of each language
(`locales/<language>/texts.json`): `python docs/texts.py` tells what lacks there and what nobody says any more, adds the
one with an empty translation and removes the other. `--check` changes nothing. Both end with 1 where anything is wrong.

A sentence is what an error of ours is made with, or what is handed to `say`, `note` and their like, with what flows
into it: conditions, local names, constants, parameters, what functions of ours return. It is written with named holes,
"{name} is {value}; choose True or False". What is optional in a sentence ("" or something) makes two sentences of it.
What stands in the translation's holes is told in `host/translation.py`.
"""

from __future__ import annotations

import ast
import builtins
import itertools
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).absolute().parent.parent
LOCALES = ROOT / "locales"
# What is looked through: all that runs for a node. The command line, and the reading and writing of pictures',
# latents' and exported files that only it does, stay English, and so does what goes to the log alone (storage, kernels,
# the compiling process).
PLACES = (
    *("api", "backends", "canvas", "host", "images", "latents", "models", "pipeline", "tiling", "video"),
    *("memory.py", "compile_cache.py", "compiling", "upscale_engine.py", "nodes.py"),
    *("devices/named.py", "devices/reserve.py", "kernels/numerics.py"),
    *("scaleout/bands.py", "scaleout/devices.py", "scaleout/shares.py", "scaleout/sharing.py"),
)
OF_FILES = (
    *("images/codecs", "images/animation", "images/files", "images/jobs", "images/limits", "images/naming"),
    *("images/whole", "latents/files", "latents/jobs", "video/films", "video/alone", "compiling/export."),
    *("video/folder_", "video/frame_jobs", "video/frame_pattern", "video/ends"),
)
SAYING = {
    "__init__": 0,  # of an error, by those made of it
    "say": 0,
    "note": 1,
    "phase": 0,
    "Status": 0,
    "Reschedule": 0,
    "Choice": 1,
    "distrust": 0,
    "refuse": 1,
    "_told": 1,
}
"""Functions that are told a text -> the position of that argument."""
LISTS = {"notes", "_notes", "found", "noted"}
"""Lists of sentences for the user, by the names that they have."""
ALSO = {
    "compile_cache.status",
    "device_share.__str__",
    "devices.status",
    "errors.explain",
    "header._what_else",
    "last_film._sentences",
    "last_film.facts",
    "last_run._sentences",
    "last_run.facts",
    "loader._what_else",
    "loader.not_an_upscaler",
    "memory_use.__str__",
    "monitor._now",
    "numerics.compare",
    "precision.why_not",
    "progress.status",
    "report.warnings",
    "result_check._described",
    "session.compiling",
    "session.told_profile",
    "shapes.__str__",
    "sharing.sharing_of",
    "tile_check.find_fault",
    "trial.difference",
    "trial.steps",
    "upscale_engine._summary",
    "upscale_engine.warm_up",
}
"""Functions whose results come to people on ways that are not seen here."""
SILENT = {"_GivenWayError", "NotOwnError", "TimeoutError", "surroundings_of", "place_of"}
"""Errors and functions whose texts are for us."""
WORDS = {
    *("automatic", "column", "compiled", "eager", "height", "none", "off", "preparing", "row", "width"),
    *("compilation", "encoding", "film", "health", "kernels", "plan", "precision", "time"),
}
"""Single words that are said; all others are names."""
UNITS = {"min", "ms"}
NOTING = {"notes", "raised", "reason", "trials", "warning"}
"""Keywords that are handed a text, or several."""
UNKNOWN = "\0"
HOPS = 2  # from parameter to parameter, on which texts are followed
MOST = 24
"""Alternatives of one sentence, which above are no sentence but a table."""
_HOLE = re.compile(r"\{(\w+)\}")
_WORD = re.compile(r"[a-z]{2,}")
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Module:
    """A file, with its functions, and who stands in which."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.scopes: dict[ast.AST, Function | None] = {}
        self._enter(self.tree, None)

    def _enter(self, node: ast.AST, scope: Function | None) -> None:
        for child in ast.iter_child_nodes(node):
            self.scopes[child] = scope
            self._enter(child, child if isinstance(child, Function) else scope)


class Source:
    """All that is looked through, and the sentences in it."""

    def __init__(self) -> None:
        paths = [path for place in PLACES for path in (sorted((ROOT / place).rglob("*.py")) or [ROOT / place])]
        names = {path: path.relative_to(ROOT).as_posix() for path in paths}
        self.modules = [Module(path) for path in paths if not names[path].startswith(OF_FILES)]
        self._functions: dict[str, list[tuple[Module, Function]]] = defaultdict(list)
        self._calls: dict[str, list[tuple[Module, ast.Call]]] = defaultdict(list)
        for module in self.modules:
            for node in module.scopes:
                if isinstance(node, Function):
                    self._functions[node.name].append((module, node))
                elif isinstance(node, ast.Call):
                    self._calls[_called(node)].append((module, node))

    def functions(self, name: str) -> list[tuple[Module, Function]]:
        return self._functions.get(name, [])

    def meant(self, module: Module, name: ast.expr) -> list[tuple[Module, Function]]:
        """The functions that may be meant in a module: its own of that name, or else those of others."""
        found = self.functions(_last_name(name, 0)) if _last_name(name, 0) not in SILENT else []
        own = [one for one in found if one[0] is module]
        here = isinstance(name, ast.Name) or _last_name(name, 1) == "self"
        return own if own and here else found

    def calls(self, name: str) -> list[tuple[Module, ast.Call]]:
        return self._calls.get(name, [])

    def sentences(self) -> dict[str, str]:
        """Every sentence with its holes, by its shape."""
        found: set[str] = set()
        for module, expression in self._roots():
            Flow(self, found).follow(module, expression)
        return {shape(text): text for text in sorted(found, reverse=True)}

    def _roots(self) -> Iterator[tuple[Module, ast.expr]]:
        for name, calls in self._calls.items():
            of_error = name.endswith("Error") and name not in SILENT and (name == "MemoryError" or not _builtin(name))
            at = 0 if of_error else SAYING.get(name)
            for module, call in calls:
                yield from ((module, word.value) for word in call.keywords if word.arg in NOTING)
                if at is not None and len(call.args) > at:
                    yield module, call.args[at]
                elif name == "append" and _last_name(call.func, 1) in LISTS:
                    yield module, call.args[0]
        for name in ALSO:
            place, _, name = name.rpartition(".")
            for module, function in self.functions(name):
                yield from ((module, value) for value in _returned(function) if module.name == place)


class Flow:
    """What flows into one expression, written as sentences into `found`."""

    def __init__(self, source: Source, found: set[str]) -> None:
        self._source, self._found = source, found
        self._seen: set[ast.AST] = set()
        self._hops = 0

    def follow(self, module: Module, expression: ast.expr) -> None:
        self._keep(self.texts(module, expression))

    def _keep(self, texts: list[str]) -> None:
        self._found.update(text for text in texts if is_sentence(text))

    def texts(self, module: Module, node: ast.AST) -> list[str]:
        """What `node` can be; "\\0" stands for what is not known."""
        if node in self._seen:
            return [UNKNOWN]
        self._seen.add(node)
        try:
            return list(dict.fromkeys(self._texts(module, node))) or [UNKNOWN]
        finally:
            self._seen.discard(node)

    def _texts(self, module: Module, node: ast.AST) -> Iterator[str]:
        match node:
            case ast.Constant(value=str(text)):
                yield text.replace("{", "{{").replace("}", "}}")
            case ast.JoinedStr(values=parts):
                yield from self._joined(module, parts)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                for one, other in itertools.product(self.texts(module, left), self.texts(module, right)):
                    yield one + other
            case ast.BinOp(left=ast.Constant(value=str(text)), op=ast.Mult()):
                yield from ("", text)
            case ast.IfExp(body=body, orelse=other):
                yield from (*self.texts(module, body), *self.texts(module, other))
            case ast.BoolOp(values=values):
                for value in values:
                    yield from self.texts(module, value)
            case ast.Dict(keys=keys, values=values):
                for key, value in zip(keys, values, strict=True):
                    text = key.value if isinstance(key, ast.Constant) else None
                    if isinstance(text, str) and " " in text:  # no name, but words that are told
                        yield text
                    if text != "tooltip":
                        yield from self.texts(module, value)
            case ast.List(elts=values) | ast.Tuple(elts=values):
                for value in values:
                    yield from self.texts(module, value)
            case ast.Starred(value=value) | ast.NamedExpr(value=value) | ast.ListComp(elt=value):
                yield from self.texts(module, value)
            case (
                ast.DictComp(value=value)
                | ast.GeneratorExp(elt=value)
                | ast.Subscript(value=value)
                | ast.FormattedValue(value=value)
            ):
                yield from self.texts(module, value)
            case ast.Name(id=name):
                yield from self._named(module, node, name)
            case ast.Attribute(attr=name):
                yield from self._returned_by(module, node, only_properties=True)
            case ast.Call():
                yield from self._call(module, node)

    def _joined(self, module: Module, parts: list[ast.expr]) -> Iterator[str]:
        choices: list[list[str]] = []
        for part in parts:
            if isinstance(part, ast.Constant):
                choices.append(self.texts(module, part))
                continue
            assert isinstance(part, ast.FormattedValue)
            texts = self.texts(module, part.value)
            hole = f"{{{hole_of(part.value)}}}"
            told = {*texts} - {"", UNKNOWN}
            if told and 1 < len(texts) <= 4 and (isinstance(part.value, ast.IfExp | ast.BinOp) or "" in texts):
                choices.append([text.replace(UNKNOWN, hole) for text in texts])
            else:
                self._keep(texts)
                choices.append([hole])
        made = ["".join(some) for some in itertools.islice(itertools.product(*choices), MOST)]
        yield from map(_numbered, made)

    def _named(self, module: Module, node: ast.AST, name: str) -> Iterator[str]:
        scope = module.scopes.get(node)
        there = list(_assigned(scope, name)) if scope else []
        if scope and not there and (at := _position(scope, name)) is not None:
            self._hops += 1
            if self._hops <= HOPS:
                yield from self._given(module, scope, name, at)
            self._hops -= 1
            return
        others = (kept for other in self._source.modules if name.isupper() for kept in _assigned(other.tree, name))
        for value, index in there or list(_assigned(module.tree, name)) or others:
            if index is not None and isinstance(value, ast.Call):
                for where, function in self._source.functions(_called(value)):
                    for result in _returned(function):
                        if isinstance(result, ast.Tuple) and index < len(result.elts):
                            yield from self.texts(where, result.elts[index])
            elif index is None:
                texts = self.texts(module, value)
                yield from texts
                yield from (one + more for one in texts for more in self._added(module, scope, name))
            elif isinstance(value, ast.Tuple) and index < len(value.elts):
                yield from self.texts(module, value.elts[index])

    def _given(self, module: Module, function: Function, name: str, at: int) -> Iterator[str]:
        """What a parameter can be."""
        for value in _default(function, name):
            yield from self.texts(module, value)
        for other, call in self._source.calls(function.name):
            given = [word.value for word in call.keywords if word.arg == name] + call.args[at : at + 1]
            for value in given[:1]:
                yield from self.texts(other, value)

    def _added(self, module: Module, scope: Function | None, name: str) -> Iterator[str]:
        """What is put behind the text of this name."""
        for node in ast.walk(scope) if scope else ():
            match node:
                case ast.AugAssign(target=ast.Name(id=owner), op=ast.Add(), value=value) if owner == name:
                    if not isinstance(value, ast.List | ast.Tuple | ast.IfExp):
                        yield from self.texts(module, value)
                case _:
                    pass

    def _call(self, module: Module, node: ast.Call) -> Iterator[str]:
        name = _called(node)
        if name == "join":
            for value in node.args:
                self._keep(self.texts(module, value))
        elif name in ("tuple", "list", "sorted", "str", "map", "filter", "fromkeys", "items", "values"):
            owner = [node.func.value] if isinstance(node.func, ast.Attribute) and name in ("items", "values") else []
            for value in (*node.args, *owner):
                yield from self.texts(module, value)
        elif name == "first_line" or name.endswith("Error"):
            return
        else:
            yield from self._returned_by(module, node.func)

    def _returned_by(self, module: Module, name: ast.expr, only_properties: bool = False) -> Iterator[str]:
        for where, function in self._source.meant(module, name):
            told = ast.unparse(function.returns) if function.returns else ""
            is_property = any(ast.unparse(mark).endswith("property") for mark in function.decorator_list)
            if "str" in told and "dict" not in told and (is_property or not only_properties):
                for value in _returned(function):
                    yield from self.texts(where, value)


def is_sentence(text: str) -> bool:
    """Whether there are words in it that a translation could change."""
    known = UNKNOWN not in text and not re.search(
        r": ?(;|$|  )|: +\(", text
    )  # where a reason may be none, there is one
    return known and bool({*_WORD.findall(_HOLE.sub("", text))} - UNITS) and (" " in text or text in WORDS)


def shape(text: str) -> str:
    """The sentence without the names of its holes, which may change."""
    return _HOLE.sub("{}", text)


def hole_of(node: ast.expr) -> str:
    """The name for a hole: the last one that the expression has."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.strip("_").lower()
        case ast.Call(func=ast.Name(), args=[first, *_]) | ast.Call(func=ast.Attribute(attr="join"), args=[first, *_]):
            return hole_of(first)
        case ast.Call(func=ast.Name(id=name)) | ast.Call(func=ast.Attribute(attr=name)):
            return name.strip("_").lower()
        case (
            ast.Subscript(value=value) | ast.BinOp(left=value) | ast.GeneratorExp(elt=value) | ast.Starred(value=value)
        ):
            return hole_of(value)
        case ast.ListComp(elt=value) | ast.FormattedValue(value=value) | ast.UnaryOp(operand=value):
            return hole_of(value)
        case ast.BoolOp(values=[first, *_]) | ast.List(elts=[first, *_]):
            return hole_of(first)
        case ast.IfExp(body=body):
            return hole_of(body)
    return "value"


def _numbered(text: str) -> str:
    """The same with different names for different holes."""
    seen: dict[str, int] = defaultdict(int)

    def other(hole: re.Match[str]) -> str:
        name = hole[1].rstrip("0123456789") or hole[1]
        seen[name] += 1
        return f"{{{name}{seen[name] if seen[name] > 1 else ''}}}"

    return _HOLE.sub(other, text)


def _called(call: ast.Call) -> str:
    return _last_name(call.func, 0)


def _last_name(node: ast.expr, before: int) -> str:
    """Of a.b.c the last name, or so many before it."""
    for _ in range(before):
        node = node.value if isinstance(node, ast.Attribute) else ast.Constant(None)
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _builtin(name: str) -> bool:
    return hasattr(builtins, name)


def _position(function: Function, name: str) -> int | None:
    """Where a call has the parameter of this name, not counting `self`; None for what is no parameter."""
    names = [argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)]
    if name not in names:
        return None
    return names.index(name) - (names[0] in ("self", "cls"))


def _default(function: Function, name: str) -> list[ast.expr]:
    """What the parameter of this name is where a call does not say."""
    names, values = [argument.arg for argument in function.args.args], function.args.defaults
    at = names.index(name) - len(names) + len(values) if name in names else -1
    return [values[at]] if at >= 0 else []


def _returned(function: Function) -> Iterator[ast.expr]:
    for node in ast.walk(function):
        if isinstance(node, ast.Return | ast.Yield) and node.value is not None:
            yield node.value


def _assigned(scope: ast.AST, name: str) -> Iterator[tuple[ast.expr, int | None]]:
    """What is assigned to the name, or put into the list of that name, and for an unpacked one at which place."""
    top = scope.body if isinstance(scope, ast.Module) else None
    for node in top if top is not None else ast.walk(scope):
        match node:
            case ast.Assign(targets=[target], value=value) | ast.For(target=target, iter=value):
                yield from _taken(target, value, name, is_loop=isinstance(node, ast.For))
            case ast.AnnAssign(target=target, value=ast.expr() as value) | ast.NamedExpr(target=target, value=value):
                yield from _taken(target, value, name)
            case ast.AugAssign(target=target, value=ast.List() | ast.Tuple() | ast.IfExp() as value):
                yield from _taken(target, value, name)
            case ast.comprehension(target=target, iter=value):
                yield from _taken(target, value, name, is_loop=True)
            case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr="append"), args=[value]) if owner == name:
                yield value, None


def _taken(
    target: ast.expr, value: ast.expr, name: str, is_loop: bool = False
) -> Iterator[tuple[ast.expr, int | None]]:
    if isinstance(target, ast.Name) and target.id == name:
        yield value, None
    elif isinstance(target, ast.Tuple):
        for index, one in enumerate(target.elts):
            if isinstance(one, ast.Name) and one.id == name:
                yield value, None if is_loop else index


def wrong(language: str, sentences: dict[str, str]) -> tuple[list[str], list[str]]:
    """The sentences that the catalogue of a language lacks, and those in it that nobody says."""
    told = {shape(text): text for text, translation in catalogue(language).items() if translation}
    lacking = [text for known, text in sentences.items() if known not in told]
    return sorted(lacking), sorted(text for known, text in told.items() if known not in sentences)


def catalogue(language: str) -> dict[str, str]:
    return json.loads((LOCALES / language / "texts.json").read_text(encoding="utf-8"))


def main() -> None:
    sentences, found = Source().sentences(), []
    for language in sorted(path.parent.name for path in LOCALES.glob("*/texts.json")):
        lacking, stale = wrong(language, sentences)
        found += [f"{language} lacks: {text}" for text in lacking]
        found += [f"{language} has, and nobody says: {text}" for text in stale]
        if sys.argv[1:] != ["--check"]:
            kept = {**catalogue(language), **dict.fromkeys(lacking, "")}
            told = {text: kept[text] for text in sorted(kept.keys() - {*stale})}
            content = json.dumps(told, ensure_ascii=False, indent=1)
            (LOCALES / language / "texts.json").write_text(f"{content}\n", encoding="utf-8")
    sys.exit("\n".join(found) or 0)


if __name__ == "__main__":
    main()
