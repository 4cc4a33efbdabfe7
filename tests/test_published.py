"""What others read of the pack before it is installed: pyproject.toml, as pip and ComfyUI's registry have it, and the
files for the place where it is developed."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest there

ROOT = Path(__file__).absolute().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
COMFYUI = os.environ.get("COMFYUI_DIR")
REGISTRY = "https://raw.githubusercontent.com/upscale-cudaspeed/comfyui-upscale-cudaspeed/main/"
FILES = sorted((ROOT / ".github").rglob("*.yml"))

_BY_COMFYUI = """
import sys
from comfy_config import config_parser
print(config_parser.extract_node_configuration(sys.argv[1]).model_dump_json())
"""


def test_there_is_one_version() -> None:
    told = PROJECT["project"]["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", told), "the registry takes no other"
    assert version("cudaspeed") == told
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\S+)", changes, re.MULTILINE)[0] == told


def test_the_registry_is_told_all_it_asks_for() -> None:
    comfy = PROJECT["tool"]["comfy"]
    assert comfy["PublisherId"] == "upscale-cudaspeed"
    assert comfy["DisplayName"] == "Upscale CUDAspeed"
    for picture in (comfy["Icon"], comfy["Banner"]):
        assert picture.startswith(REGISTRY)
        assert (ROOT / picture.removeprefix(REGISTRY)).is_file()
    assert {"Repository", "Documentation", "Issues"} <= {*PROJECT["project"]["urls"]}


@pytest.mark.parametrize(("name", "aspect"), [("icon", 1), ("banner", 21 / 9)])
def test_the_pictures_have_the_registrys_shape(name: str, aspect: float) -> None:
    drawing = (ROOT / "docs" / f"{name}.svg").read_text(encoding="utf-8")
    width, height = re.findall(r'viewBox="0 0 (\d+) (\d+)"', drawing)[0]
    assert int(width) / int(height) == pytest.approx(aspect, rel=0.01)


@pytest.mark.skipif(not COMFYUI, reason="COMFYUI_DIR is not set: no ComfyUI to read it")
def test_comfyui_reads_of_it_what_was_meant() -> None:
    python = os.environ.get("COMFYUI_PYTHON", sys.executable)
    command = [python, "-c", _BY_COMFYUI, str(ROOT)]
    done = subprocess.run(command, cwd=COMFYUI, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = json.loads(done.stdout)
    project, comfy = read["project"], read["tool_comfy"]
    assert project["version"] == PROJECT["project"]["version"]
    assert project["supported_os"] == ["OS Independent"]
    assert len(project["supported_accelerators"]) == 5, "one that it does not know, and it reads none"
    assert project["supported_comfyui_version"] == ">=0.8.0"
    assert [project["urls"][name] for name in ("repository", "documentation", "issues")] == [
        PROJECT["project"]["urls"][name] for name in ("Repository", "Documentation", "Issues")
    ]
    assert comfy["publisher_id"] == "upscale-cudaspeed"
    assert comfy["icon"].endswith("icon.svg")


@pytest.mark.skipif(not importlib.util.find_spec("yaml"), reason="no parser for YAML is installed")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_for_the_forge_are_well_formed(path: Path) -> None:
    import yaml

    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.parent.name == "workflows":
        assert all(job["runs-on"] and job["steps"] for job in content["jobs"].values())
        assert content["permissions"] == {"contents": "read"}
    elif path.name != "config.yml":
        assert {"name", "description", "body"} <= {*content}
        kinds = {"textarea", "input", "dropdown"}
        assert {field["type"] for field in content["body"]} <= kinds
        assert all(field["attributes"]["label"] for field in content["body"])


def test_a_tag_and_every_system_have_a_workflow() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in FILES}
    for asked in ("ubuntu-latest", "macos-latest", "windows-latest", "torch==2.6.0", "make lint"):
        assert asked in texts["test.yml"]
    assert "publish-node-action" in texts["publish.yml"]
    others = [use for text in texts.values() for use in re.findall(r"uses: (?!actions/)(\S+)", text)]
    assert others and all(re.search(r"@[0-9a-f]{40}$", use) for use in others), "a branch or a tag may move"
    assert {"bug.yml", "slow.yml", "model.yml"} <= {*texts}
