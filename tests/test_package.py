"""The package as others import it: its face in Python, and what ComfyUI looks for in the folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import cudaspeed

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest there

PACK = Path(cudaspeed.__file__).absolute().parent
PAGE = sorted(path for folder in ("web", "locales") for path in (PACK / folder).rglob("*") if path.is_file())

# ComfyUI's way (nodes.py, load_custom_node): the folder's path is the module's name.
AS_COMFYUI_DOES = """
import importlib.util, sys
folder = sys.argv[1]
spec = importlib.util.spec_from_file_location(folder.replace(".", "_x_"), folder + "/__init__.py")
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)
assert hasattr(module, "NODE_CLASS_MAPPINGS")
print(*module.NODE_CLASS_MAPPINGS)
print(*module.NODE_DISPLAY_NAME_MAPPINGS)
print(module.WEB_DIRECTORY)
"""


def python(code: str, *arguments: str, cwd: Path) -> list[str]:
    """The lines that a fresh process prints, which starts in `cwd` and finds modules there."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_picture_is_upscaled_with_the_bundled_model() -> None:
    steps = torch.linspace(0, 1, 24)
    image = (steps[:, None] * steps)[None, ..., None].repeat(1, 1, 1, 3)
    options = cudaspeed.UpscaleOptions(precision="fp32", compile=False)
    result = cudaspeed.upscale(image, cudaspeed.load_model("cudaspeed-compact-x2"), options)
    assert result.image.shape == (1, 48, 48, 3)
    assert result.image.device.type == "cpu"
    inside = result.image[:, 8:40, 8:40].unflatten(2, (16, 2)).unflatten(1, (16, 2)).mean((2, 4))
    assert float((inside - image[:, 4:20, 4:20]).abs().max()) < 0.02
    assert not result.report.warnings


def test_the_model_may_be_a_path_and_where_to_compute_may_be_said() -> None:
    told: list[tuple[int, int]] = []
    path = PACK / "models" / "bundled" / "cudaspeed-compact-x2.safetensors"
    context = cudaspeed.StandaloneContext("cpu", lambda done, total: told.append((done, total)))
    result = cudaspeed.upscale(torch.rand(2, 8, 8, 1), cudaspeed.load_model(path), context=context)
    assert result.image.shape == (2, 16, 16, 1)
    assert told[-1] == (2, 2)


def test_importing_it_imports_neither_torch_nor_numpy(tmp_path: Path) -> None:
    code = "import cudaspeed, sys; print(*{'torch', 'spandrel', 'numpy'} & {*sys.modules})"
    assert python(code, cwd=tmp_path) == [""]


def test_its_face_is_there_when_it_is_asked_for(tmp_path: Path) -> None:
    """Whichever way of asking comes first in a process, and names that look private as well."""
    errors = ["BadFilmError", "BadImageError", "BadModelError", "BadOptionError", "BrokenOutputError", "CudaspeedError"]
    errors += ["MissingLibraryError", "ModelFailedError", "OutOfMemoryError", "OutputError"]
    names = [*errors, "Resize", "StandaloneContext", "UpscaleOptions", "load_model", "upscale"]
    code = f"""
import cudaspeed, sys
assert {{*{names}}} <= {{*dir(cudaspeed)}}
assert "torch" not in sys.modules, "listing the names imports none"
assert not hasattr(cudaspeed, "downscale") and not hasattr(cudaspeed, "__wrapped__")
assert "torch" not in sys.modules, "nor does asking for what there is not"
from cudaspeed import *
print(*sorted(name for name in globals() if name in cudaspeed.__all__))
print(cudaspeed.upscale is upscale, cudaspeed.upscale is upscale, upscale.__name__)
from cudaspeed import upscale_engine
from cudaspeed.host import standalone
print(standalone.StandaloneContext is StandaloneContext is cudaspeed.StandaloneContext)
import typing
print(typing.get_type_hints(upscale)["options"] is UpscaleOptions)
"""
    assert python(code, cwd=tmp_path) == [" ".join(names), "True True upscale", "True", "True"]
    assert cudaspeed.__all__ == names


def test_importing_it_outside_comfyui_imports_no_nodes(tmp_path: Path) -> None:
    code = "import cudaspeed, sys; print('cudaspeed.nodes' in sys.modules, hasattr(cudaspeed, 'NODE_CLASS_MAPPINGS'))"
    assert python(code, cwd=tmp_path) == ["False False"]


def test_inside_comfyui_it_hands_over_what_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "comfy").mkdir()
    (tmp_path / "comfy" / "__init__.py").write_text("")
    (tmp_path / "folder_paths.py").write_text("def add_model_folder_path(kind, folder): pass")
    nodes, names, web = python(AS_COMFYUI_DOES, str(PACK), cwd=tmp_path)
    assert (
        set(nodes.split())
        == set(names.split())
        == {
            "UpscaleImageCUDAspeed",
            "ImageUpscaleWithModelCUDAspeed",  # where nodes cannot be replaced
            "ImageUpscaleWithModelCUDAspeedFixed",
            "UpscaleImageWithModelCUDAspeed",
            "UpscaleLatentCUDAspeed",
            "LatentUpscaleModelLoaderCUDAspeed",
            "UpscaleModelLoader",
            "UpscaleModelLoaderCUDAspeed",
            "UpscaleVideoCUDAspeed",
            "WarmUpUpscalerCUDAspeed",
        }
    )
    assert (PACK / web).is_dir()


def test_all_that_the_page_is_shown_is_installed() -> None:
    project = tomllib.loads((PACK / "pyproject.toml").read_text(encoding="utf-8"))
    packed = {path for glob in project["tool"]["setuptools"]["package-data"]["cudaspeed"] for path in PACK.glob(glob)}
    assert PACK / "locales" / "zh" / "nodeDefs.json" in packed
    assert not {*PAGE} - packed


@pytest.mark.parametrize(
    ("folder_paths", "told"),
    [
        ("", "add_model_folder_path"),  # an AttributeError within, by which hasattr would say that there are no nodes
        ("raise ImportError('folder_paths is unwell')", "folder_paths is unwell"),
        ("1 / 0", "division by zero"),
    ],
)
def test_why_there_are_no_nodes_is_told_where_comfyui_asks_for_them(
    tmp_path: Path, folder_paths: str, told: str
) -> None:
    (tmp_path / "comfy").mkdir()
    (tmp_path / "comfy" / "__init__.py").write_text("")
    (tmp_path / "folder_paths.py").write_text(folder_paths)
    done = subprocess.run(
        [sys.executable, "-c", AS_COMFYUI_DOES, str(PACK)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert told in done.stderr
    assert "nodes.py" in done.stderr, "the traceback leads to where it happened"
    assert "AssertionError" not in done.stderr
