"""The house's rules, read off the source: who may import whom, where ComfyUI is known, and what is never used."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest there

ROOT = Path(__file__).parent.parent

# A room may import these rooms and no others. A new room gets its line here, in the order of reading.
LEAVES = (
    "agreement",
    "alpha",
    "assembly",
    "borders",
    "checks",
    "health",
    "lanes",
    "memory",
    "packages",
    "quantiles",
    "telling",
    "tiling",
    "traits",
    "weights",
)
COMPILING = {"artifacts", "compile_cache", "compile_errors", "compile_jobs", "compile_worker", "economy", "environment"}
PIPELINE = {"intake", "outlet", "transfer"}
REPAIRING = {"group", "ladder", "postprocess", "repair"}
BELOW_STREAMING = {
    "channels",
    "contracts",
    "folding",
    "pace",
    "planning",
    "working",
    *COMPILING,
    *PIPELINE,
    *REPAIRING,
    *LEAVES,
}
BELOW_CACHES = BELOW_STREAMING | {"precision", "profiles", "reach", "stopwatch", "tuning"}
BELOW_ENGINE = BELOW_CACHES | {"caches", "results", "streaming"}
ALLOWED: dict[str, set[str]] = {
    "contracts": set(),
    "entries": set(),
    "environment": set(),
    "folding": set(),
    "shared_files": set(),
    **{room: {"contracts"} for room in (*LEAVES, "pictures")},
    "channels": {"alpha", "contracts"},
    "postprocess": {"contracts", "quantiles"},
    "artifacts": {"entries", "shared_files"},
    "economy": {"artifacts", "contracts", "tiling"},
    "convolution": set(),
    "stopwatch": {"contracts"},
    "triton_convolution": {"convolution"},
    "fastest_convolution": {"contracts", "convolution", "stopwatch", "triton_convolution"},
    "graphs": {"agreement", "contracts", "stopwatch"},
    "dense_block": {"convolution", "fastest_convolution"},
    "fused_chain": {"convolution", "fastest_convolution"},
    "native": {"artifacts", "contracts", "environment"},
    "winograd": {"convolution", "native"},
    "rewriting": {"contracts", "convolution", "dense_block", "fused_chain", "winograd"},
    "window_attention": {"native"},
    "attention": {"window_attention"},
    "working": {"attention", "contracts", "folding", "graphs", "rewriting", "traits", "winograd"},
    "profiles": {"shared_files", "working"},
    "reach": {"contracts", "profiles", "tiling", "working"},
    "compile_errors": {"contracts"},
    "compile_worker": {
        *("agreement", "artifacts", "compile_errors", "contracts", "folding", "packages", "stopwatch", "traits"),
        *("weights", "window_attention", "winograd", "working"),
    },
    "compile_jobs": {"artifacts", "compile_worker"},
    "compile_cache": {"agreement", "contracts", "packages", "working", *COMPILING} - {"compile_cache"},
    "intake": {"lanes"},
    "outlet": {"lanes"},
    "transfer": {"intake", "lanes", "outlet"},
    "group": {"assembly", "borders", "channels", "contracts", "lanes", "postprocess", "tiling", "transfer"},
    "ladder": {"compile_cache", "contracts", "working"},
    "repair": {"agreement", "contracts", "health", "ladder", "memory", "working"},
    "pace": {"contracts", "stopwatch", "tiling", "working"},
    "planning": {"contracts", "memory", "pace", "tiling"},
    "precision": {"contracts", "traits", "working"},
    "tuning": {
        "agreement",
        "contracts",
        "native",
        "precision",
        "rewriting",
        "stopwatch",
        "traits",
        "window_attention",
        "winograd",
        "working",
    },
    "streaming": BELOW_STREAMING,
    "results": {"contracts", "memory"},
    "caches": BELOW_CACHES,
    "standalone": {"contracts", "memory"},
    "host": {"contracts", "memory", "standalone", "weights"},
    "upscale_engine": BELOW_ENGINE,
    "cache_commands": {"artifacts", "contracts", "profiles", "standalone", "upscale_engine", "weights"},
    "cli": BELOW_ENGINE | {"cache_commands", "pictures", "standalone", "upscale_engine"},
    "nodes": BELOW_ENGINE | {"host", "upscale_engine"},
    "__init__": {"nodes"},
}
COMFYUI = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "execution", "folder_paths", "server"}
MAY_PRINT = {"cache_commands.py", "cli.py", "train", "bench", "examples"}
RUNS_CODE = {"eval", "exec", "__import__"}
UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}

ROOMS = sorted(ROOT.glob("*.py"))
SOURCES = ROOMS + sorted(path for folder in ("train", "bench", "examples") for path in (ROOT / folder).rglob("*.py"))
each_room = pytest.mark.parametrize("path", ROOMS, ids=lambda path: path.stem)
each_source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def own_imports(path: Path) -> set[str]:
    """The rooms that a room imports, wherever in it, by a relative import."""
    found: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1, f"{path.name} imports from outside the pack"
            found |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
    return found


def foreign_imports(path: Path) -> set[str]:
    """The top-level names of the modules that a file imports by their own name."""
    found: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").split(".")[0])
    return found


def used_names(path: Path) -> set[str]:
    """What a file calls or refers to: plain names, and attributes as written ("torch.load")."""
    return {ast.unparse(node) for node in nodes(path) if isinstance(node, ast.Name | ast.Attribute)}


def test_the_sources_are_found() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in SOURCES}
    assert {"__init__.py", "contracts.py", "upscale_engine.py", "cli.py", "train/train.py"} <= names
    assert own_imports(ROOT / "nodes.py") >= {"host", "contracts"}, "both `from . import x` and `from .x import y`"
    assert "torch" in foreign_imports(ROOT / "memory.py")


@each_room
def test_imports_run_one_way(path: Path) -> None:
    assert path.stem in ALLOWED, "a new room: give it a line in this test's table"
    assert own_imports(path) <= ALLOWED[path.stem]


def test_the_table_allows_no_circles_and_names_no_room_that_is_gone() -> None:
    order: list[str] = []
    for room, below in ALLOWED.items():
        assert below <= {*order}, f"{room} is listed before what it may import"
        order.append(room)
    assert {*order} == {path.stem for path in ROOMS}


@each_room
def test_own_rooms_are_imported_relatively(path: Path) -> None:
    """Inside ComfyUI `import nodes` is ComfyUI's own module, and `import memory` fails."""
    assert not foreign_imports(path) & ({"cudaspeed", "train", "tests"} | ALLOWED.keys())


@each_source
def test_only_the_host_knows_comfyui(path: Path) -> None:
    known = foreign_imports(path) & COMFYUI
    assert known == ({"comfy", "comfy_execution", "folder_paths", "server"} if path.name == "host.py" else set())


@each_room
def test_comfyui_is_imported_where_it_is_used_so_that_the_pack_loads_without(path: Path) -> None:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            assert not {name.split(".")[0] for name in names} & COMFYUI


@each_source
def test_only_commands_print(path: Path) -> None:
    prints = used_names(path) & {"print", "sys.stdout", "sys.stderr"}
    assert not prints or path.relative_to(ROOT).parts[0] in MAY_PRINT


@each_source
def test_no_code_comes_out_of_data(path: Path) -> None:
    assert not foreign_imports(path) & UNSAFE_MODULES
    used = used_names(path)
    assert not used & RUNS_CODE
    unsafe = {"torch.load", "torch.jit.load", "torch.package", "torch.hub.load"}
    assert used & unsafe <= ({"torch.load"} if path.name == "weights.py" else set())
    for node in nodes(path):
        assert not (isinstance(node, ast.ImportFrom) and node.module == "torch" and node.names[0].name == "load")


def test_what_torch_loads_is_restricted() -> None:
    loads = [n for n in nodes(ROOT / "weights.py") if isinstance(n, ast.Call) and ast.unparse(n.func) == "torch.load"]
    assert loads
    for load in loads:
        told = {keyword.arg: ast.unparse(keyword.value) for keyword in load.keywords}
        assert told.get("pickle_module") == "RestrictedUnpickle" or told.get("weights_only") == "True"


@each_room
def test_loggers_bear_the_packs_name(path: Path) -> None:
    """ComfyUI imports a pack under its folder's path, which `__name__` would show to users."""
    loggers = [n for n in nodes(path) if isinstance(n, ast.Call) and ast.unparse(n.func) == "logging.getLogger"]
    for logger in loggers:
        assert [type(argument) for argument in logger.args] == [ast.Constant], ast.unparse(logger)


@each_source
def test_every_module_says_what_it_is(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    assert len(docstring.split()) > 3


def requirements() -> list[str]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def test_what_the_nodes_require_the_package_requires_too() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.split(r"[^\w-]", requirement)[0] for requirement in requirements()}
    assert names == {"torch", "spandrel", "numpy", "safetensors", "psutil"}
    assert {*requirements()} <= {*project["dependencies"]}


def test_no_version_of_torch_is_asked_for_so_that_pip_keeps_the_users() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = [line for extra in project.get("optional-dependencies", {}).values() for line in extra]
    for requirement in [*requirements(), *project["dependencies"], *optional]:
        assert requirement == "torch" or not requirement.startswith("torch"), requirement
        assert "==" not in requirement, "a pinned version would replace what the user's ComfyUI runs on"
