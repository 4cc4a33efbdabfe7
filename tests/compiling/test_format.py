"""What is compiled stays good until it would come out otherwise: `COMPILED_FORMAT`, and when to raise it."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cudaspeed.storage.fingerprint import COMPILED_FORMAT

ROOT = Path(__file__).parents[2]
WORKER = ROOT / "compiling" / "worker.py"

FORMAT = 1
DIGESTS = {
    "api/errors.py": "cf77e55d",
    "api/model_info.py": "8b3144b3",
    "api/options.py": "b51645e2",
    "api/upstream.py": "dc1211aa",
    "compiling/aoti.py": "b5cc369f",
    "compiling/errors.py": "e3b4b7c0",
    "compiling/fold_constants.py": "2de9cce7",
    "compiling/request.py": "9419bee3",
    "compiling/shapes.py": "7bc3b92f",
    "compiling/worker.py": "21f82369",
    "images/kinds.py": "a2ce82df",
    "kernels/__init__.py": "b3f49671",
    "kernels/attention_fusion.py": "5155cf6e",
    "kernels/autotuned_convolution.py": "2615874d",
    "kernels/build.py": "7dc115a3",
    "kernels/build_worker.py": "a54a7943",
    "kernels/convolution.py": "97385b9c",
    "kernels/dense_block.py": "1ec0c1b8",
    "kernels/fused_convolution.py": "2dfc2644",
    "kernels/interface.py": "0e5d6064",
    "kernels/numerics.py": "1c933221",
    "kernels/operands.py": "eb1f3129",
    "kernels/rewrite.py": "02e15794",
    "kernels/timing.py": "3fcd5b6b",
    "kernels/trial.py": "81b0f951",
    "kernels/triton_convolution.py": "a676f80a",
    "kernels/window_attention.py": "3b685d19",
    "kernels/winograd.py": "4dd94ea5",
    "memory.py": "1512ce8b",
    "models/construction.py": "8dfb1a99",
    "models/cuda_graphs.py": "76b5dbc1",
    "models/execution.py": "23980fdf",
    "models/formats/__init__.py": "b3f49671",
    "models/formats/errors.py": "b6a47531",
    "models/formats/pickle_reader.py": "bed0e4b4",
    "models/formats/safetensors_file.py": "fb2a7282",
    "models/formats/tensors.py": "e92857c5",
    "models/formats/torch_file.py": "fc715046",
    "models/formats/torch_names.py": "d3be683a",
    "models/formats/zip_archive.py": "2a53bde5",
    "models/info.py": "bd7a0c36",
    "models/loader.py": "5af28f4b",
    "models/meshgrid.py": "7e8796ab",
    "models/result_check.py": "0a05801c",
    "models/runner.py": "17f0146b",
    "models/weights.py": "bae3d1f7",
    "storage/artifacts.py": "2c639f38",
    "storage/files.py": "7a359812",
    "storage/fingerprint.py": "d7bef5a9",
    "storage/index.py": "5f2e01b7",
    "storage/memory_limits.py": "57b52746",
    "storage/ownership.py": "cde3b477",
    "storage/private_copy.py": "2b321ada",
    "storage/processes.py": "5c3c66eb",
    "storage/scratch.py": "b3d8c839",
}
"""Of the code, without comments and docstrings, of all that the compiling process is made of, as of `FORMAT`."""

HOW_TO = """
The code of the process that compiles has changed: {changed}.
Would it make another thing of some model now (other results, other calls, other speed)? Then raise COMPILED_FORMAT in
storage/fingerprint.py and FORMAT here, and what users have compiled is compiled anew. If not, all of it stays good.
In both cases the digests here become:

DIGESTS = {{
{digests}
}}"""


def modules_of(start: Path) -> set[Path]:
    """`start` and all modules of ours that it imports, directly or not, wherever in a file that stands."""
    found: set[Path] = set()
    waiting = [start]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += imported_by(path)
    return found


def imported_by(path: Path) -> Iterator[Path]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            places = [folder, *(folder / alias.name for alias in node.names)]
            files = [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")]
            yield from (file for file in files if file.is_file() and file != ROOT / "__init__.py")


def digest(source: str) -> str:
    return hashlib.sha256(repr(outline(ast.parse(source))).encode()).hexdigest()[:8]


def outline(value: object) -> object:
    """A syntax tree as nested lists, the same in every version of Python; without docstrings and other lone strings."""
    if isinstance(value, list):
        return [outline(one) for one in value if not is_lone_string(one)]
    if not isinstance(value, ast.AST):
        return repr(value)
    fields = [(name, held) for name, held in ast.iter_fields(value) if held not in (None, []) and name != "kind"]
    return [type(value).__name__, *((name, outline(held)) for name, held in fields)]


def is_lone_string(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def test_a_change_of_what_the_compiling_process_does_is_noticed() -> None:
    now = {path.relative_to(ROOT).as_posix(): digest(path.read_text("utf-8")) for path in sorted(modules_of(WORKER))}
    changed = sorted(name for name in {*now, *DIGESTS} if now.get(name) != DIGESTS.get(name))
    digests = "\n".join(f'    "{name}": "{told}",' for name, told in now.items())
    assert not changed, HOW_TO.format(changed=", ".join(changed), digests=digests)


def test_the_digests_are_of_this_format() -> None:
    assert FORMAT == COMPILED_FORMAT, "raise it in both places, and only together with the digests"


def test_all_that_the_compiling_process_is_made_of_is_looked_at() -> None:
    found = {path.relative_to(ROOT).as_posix() for path in modules_of(WORKER)}
    assert {"compiling/aoti.py", "models/runner.py", "kernels/rewrite.py", "api/model_info.py"} <= found
    assert not found & {"nodes.py", "host.py", "upscale_engine.py", "pipeline/run.py"}


SOURCE = '''
def area(width, height=2):
    """In pixels."""
    return width * height  # that is all
'''


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("  # that is all", "", True),
        ('"""In pixels."""', '"""In pixels, of the output."""', True),
        ("width * height", "(width *\n        height)", True),
        ("width * height", "height * width", False),
        ("height=2", "height=3", False),
    ],
)
def test_comments_and_layout_recompile_nobodys_models(before: str, after: str, same: bool) -> None:
    assert before in SOURCE
    assert (digest(SOURCE.replace(before, after)) == digest(SOURCE)) == same
