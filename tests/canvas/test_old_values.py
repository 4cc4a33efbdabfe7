"""What the original pack saved runs with what was chosen, by name and by place."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cudaspeed import nodes
from cudaspeed.canvas import old_values
from cudaspeed.canvas.old_values import as_now, change_old_nodes

FOR_TWO = {"upscale_model": ["1", 0], "image": ["2", 0], "use_autocast": "enable", "precision": "fp16",
           "tile_size": 1024, "overlap": 8}  # fmt: skip
SIX = {"use_autocast": "enable", "precision": "fp16", "tile_size": 1024, "overlap": 8}
MIGRATE = Path(old_values.__file__).parent.parent / "web" / "js" / "migrate.js"
FIRST = ["enable", "fp16", 1024, 8, "enable", "speed"]


@pytest.mark.parametrize(
    ("saved", "now"),
    [
        ({**SIX, "batch_size": 4}, {**SIX, "batch_size": 4}),
        ({**SIX, "batch_size": 4, "compile_mode": "wait"}, {**SIX, "batch_size": 4, "compile_mode": "wait"}),
        ({**SIX, "enable_debug": True, "batch_size": 4}, {**SIX, "batch_size": 4}),
        ({**SIX, "batch_size": False, "compile_mode": 4}, {**SIX, "batch_size": 4}),
        ({**SIX, "batch_size": 0, "compile_mode": 4}, {**SIX, "batch_size": 4}),  # a host makes numbers of switches
        ({**SIX, "batch_size": True, "compile_mode": "auto"}, {**SIX, "compile_mode": "auto"}),
        ({**SIX, "multi_gpu_mode": "dual_gpu", "gpu_load_balance": 0.5}, SIX),
    ],
)
def test_values_come_where_they_belong(saved: dict[str, Any], now: dict[str, Any]) -> None:
    before = dict(saved)
    assert as_now(saved) == now
    assert saved == before


def test_a_prompts_old_nodes_are_changed_and_nothing_else() -> None:
    other = {"class_type": "Other", "inputs": {"batch_size": False, "enable_debug": True}}
    prompt = {
        "1": {"class_type": old_values.FIXED, "inputs": {"enable_debug": True, "batch_size": 2, "image": ["3", 0]}},
        "2": {"class_type": old_values.FOR_TWO_CARDS, "inputs": {**FOR_TWO, "multi_gpu_mode": "auto"}},
        "3": dict(other),
        "4": None,
        "5": {"class_type": old_values.FIXED},
    }
    change_old_nodes(prompt)
    assert prompt["1"]["inputs"] == {"batch_size": 2, "image": ["3", 0]}
    assert prompt["2"]["_meta"] == {}, "which ComfyUI needs to replace it"
    assert prompt["2"]["class_type"] == old_values.FOR_TWO_CARDS
    assert (prompt["3"], prompt["4"]) == (other, None)


@pytest.mark.parametrize("lacks", [["image"], ["upscale_model", "overlap"], list(FOR_TWO)])
def test_a_node_for_two_cards_that_lacks_something_is_one_of_which_comfyui_tells_what(lacks: list[str]) -> None:
    """To replace it, ComfyUI 0.33 looks each input up, and answers with "500 Internal Server Error"."""
    inputs = {name: value for name, value in FOR_TWO.items() if name not in lacks}
    old = {"class_type": old_values.FOR_TWO_CARDS, "inputs": {**inputs, "multi_gpu_mode": "auto"}, "_meta": None}
    change_old_nodes({"1": old})
    assert old["class_type"] == old_values.FIXED
    assert isinstance(old["_meta"], dict)
    required = nodes.ImageUpscaleWithModelCUDAspeedFixed.INPUT_TYPES()["required"]
    assert {*required} - old["inputs"].keys() == {*lacks}
    assert old["inputs"].items() >= inputs.items()
    assert "multi_gpu_mode" not in old["inputs"]


@pytest.mark.skipif(not shutil.which("node"), reason="there is no Node.js to run the page's script")
@pytest.mark.parametrize(
    ("saved", "now"),
    [
        ([*FIRST, False, 4], [*FIRST, 4]),
        ([*FIRST, True], FIRST),
        ([*FIRST, 4], [*FIRST, 4]),
        (FIRST, FIRST),
        ([*FIRST, 4, "wait", "none"], [*FIRST, 4, "wait", "none"]),
        ([*FIRST, False, 4, "none", "auto"], [*FIRST, 4, "auto", "none", "auto"]),
        ([*FIRST, False, "auto", "none"], [*FIRST, 1, "auto", "none"]),
        (None, None),
        ({"batch_size": 2}, {"batch_size": 2}),
    ],
)
def test_the_page_leaves_the_switch_out(saved: Any, now: Any, tmp_path: Path) -> None:
    """Opened by the script as the page loads it: the node gets its values by place."""
    script = MIGRATE.read_text(encoding="utf-8").splitlines()
    without_page = "\n".join(line for line in script if not line.startswith("import "))
    (tmp_path / "open.mjs").write_text(
        f"""let extension; const app = {{ registerExtension: (told) => (extension = told) }};
        {without_page.replace("export ", "")}
        class Node {{ configure(saved) {{ this.got = saved.widgets_values; }} }}
        class Other extends Node {{}}
        extension.beforeRegisterNodeDef(Other, {{ name: "Other" }});
        extension.beforeRegisterNodeDef(Node, {{ name: "ImageUpscaleWithModelCUDAspeedFixed" }});
        const node = new Node(); node.configure({{ widgets_values: {json.dumps(saved)} }});
        extension.beforeRegisterNodeDef(undefined, undefined);
        console.log(JSON.stringify(node.got));"""
    )
    done = subprocess.run(["node", "open.mjs"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == now
