"""The rules of the pack, read off the source: who may import whom, where ComfyUI is known, and what is never used."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest there

ROOT = Path(__file__).parent.parent
UPSTREAM = ROOT / "api" / "upstream.py"

COMFYUI = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "execution", "folder_paths", "server"}
MAY_PRINT = {"commands", "train", "bench", "fuzz", "examples"}
RUNS_CODE = {"eval", "exec", "__import__"}
UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}

PACKAGES = (
    "api",
    "backends",
    "canvas",
    "commands",
    "compiling",
    "devices",
    "host",
    "images",
    "kernels",
    "latents",
    "models",
    "pipeline",
    "storage",
    "tiling",
    "video",
)
MODULES = sorted([*ROOT.glob("*.py"), *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))])
SOURCES = MODULES + sorted(
    path for folder in ("train", "bench", "examples", "docs") for path in (ROOT / folder).rglob("*.py")
)
TOP_LEVEL = {path.stem for path in ROOT.glob("*.py")} - {"__init__"}
each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
each_source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "train" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


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
    assert {"__init__.py", "api/options.py", "upscale_engine.py", "cli.py", "train/train.py"} <= names
    assert "torch" in foreign_imports(ROOT / "memory.py")


@each_module
def test_own_modules_are_imported_relatively(path: Path) -> None:
    """Inside ComfyUI `import nodes` is ComfyUI's own module, and `import memory` fails."""
    assert not foreign_imports(path) & {"cudaspeed", "train", "tests", "bench", *PACKAGES, *TOP_LEVEL}


@each_source
def test_only_the_host_knows_comfyui(path: Path) -> None:
    assert path.parent == ROOT / "host" or not foreign_imports(path) & COMFYUI


@each_module
def test_comfyui_is_imported_where_it_is_used_so_that_the_pack_loads_without(path: Path) -> None:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and not node.level):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            assert not {name.split(".")[0] for name in names} & COMFYUI


def is_private(name: str) -> bool:
    """Also of a package: "torch._inductor.config"."""
    return any(part.startswith("_") and part not in ("__future__", "__main__") for part in name.split("."))


def own_names(path: Path) -> set[str]:
    """What a file defines, assigns to itself, or takes from other files of ours."""
    found: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self", "cls"):
            found.add(node.attr)
    return found


def foreign_private_names(path: Path) -> set[str]:
    """Private modules that a file imports and private attributes that it asks others' objects for."""
    public = {"_asdict", "_fields", "_make", "_replace"}  # a named tuple's, in spite of their names
    ours = own_names(path) | public
    found: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr) and node.attr not in ours:
            found.add(ast.unparse(node))
    return {name for name in found if is_private(name)} - {"os._exit"}


@each_module
def test_private_names_of_others_stand_in_one_file(path: Path) -> None:
    """So that a new torch or spandrel is met in one place, and each such name has its reason."""
    assert not foreign_private_names(path) or path == UPSTREAM


def test_private_names_are_found() -> None:
    found = foreign_private_names(UPSTREAM)
    assert {"descriptor._call_fn", "torch._C._aoti", "module._buffers", "tensor._version"} <= found
    assert {"torch.utils._pytree.tree_leaves", "torch.utils._python_dispatch.TorchDispatchMode"} <= found


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
    assert not used & unsafe
    for node in nodes(path):
        assert not (isinstance(node, ast.ImportFrom) and node.module == "torch" and node.names[0].name == "load")


@each_source
def test_the_import_path_stays_as_it_is(path: Path) -> None:
    """Inside ComfyUI it is everybody's."""
    assert "sys.path" not in used_names(path)


@each_module
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
        name = re.match(r"[\w.-]+", requirement)
        assert name, requirement
        assert requirement == "torch" or name[0] not in ("torch", "torchvision", "torchaudio"), requirement
        assert "==" not in requirement, "a pinned version would replace what the user's ComfyUI runs on"


def test_the_drawing_of_who_imports_whom_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "docs" / "draw.py"), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@each_page
def test_what_a_page_names_is_there(page: Path) -> None:
    """Files by their path or name, commands by their module, links by where they lead."""
    text = page.read_text(encoding="utf-8")
    places = (ROOT, page.parent, ROOT / page.stem)
    folders = (*PACKAGES, "tests", "bench", "train", "docs")
    named = {path.name for folder in folders for path in (ROOT / folder).rglob("*.*")}
    files = set(re.findall(r"`([\w./-]+\.(?:py|cpp|h|sh|md))`", text)) - named
    assert not {file for file in files if not any((place / file).is_file() for place in places)}
    modules = re.findall(r"\b(bench\.[a-z_]+)", text)
    assert not {module for module in modules if not (ROOT / module.replace(".", "/")).with_suffix(".py").is_file()}
    links = re.findall(r"\]\(([^):#]+)\)", text)
    assert not {link for link in links if not (page.parent / link).exists()}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_page_of_a_package_names_all_its_files(package: str) -> None:
    page = (ROOT / "docs" / f"{package}.md").read_text(encoding="utf-8")
    files = [path for path in (ROOT / package).rglob("*") if path.suffix in (".py", ".cpp", ".h")]
    names = {path.relative_to(ROOT / package).as_posix() for path in files if path.name != "__init__.py"}
    assert not {name for name in names if f"`{name}`" not in page}
