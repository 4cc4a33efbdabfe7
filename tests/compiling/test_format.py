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

FORMAT = 2
DIGESTS = {
    "api/checks.py": "2151d107",
    "api/context.py": "2fc270b2",
    "api/errors.py": "ae705a4d",
    "api/installed.py": "588e071e",
    "api/model_info.py": "f76b9682",
    "api/options.py": "8840ef12",
    "api/resize.py": "bc967b0c",
    "api/samples.py": "6c04ea96",
    "api/upstream.py": "9cea72f5",
    "backends/errors.py": "5467d7ce",
    "backends/interface.py": "9318b0b5",
    "backends/offer.py": "372d863c",
    "backends/openvino.py": "5e9be002",
    "backends/openvino_forward.py": "76f01f69",
    "backends/openvino_library.py": "4b10acda",
    "backends/packages.py": "a21a8166",
    "backends/shapes.py": "1c7c8cd5",
    "backends/tensorrt.py": "2ffe7798",
    "backends/tensorrt_file.py": "1532ed3e",
    "backends/tensorrt_forward.py": "9da001ad",
    "backends/tensorrt_profiles.py": "1a027574",
    "backends/typed_onnx.py": "95d681b2",
    "backends/varying_sizes.py": "02f4de61",
    "backends/xla.py": "32b66973",
    "backends/xla_cache.py": "17a66978",
    "backends/xla_file.py": "27b4b240",
    "backends/xla_forward.py": "1180bb36",
    "backends/xla_library.py": "db029273",
    "backends/xla_products.py": "dbd8ffb4",
    "compiling/aoti.py": "c3a52b56",
    "compiling/errors.py": "95cd6d83",
    "compiling/fold_constants.py": "2de9cce7",
    "compiling/others.py": "bef1c427",
    "compiling/request.py": "554282dc",
    "compiling/worker.py": "e2c6d5e4",
    "devices/__init__.py": "b3f49671",
    "devices/backends.py": "c0c7415d",
    "devices/engine_names.py": "d893df1e",
    "devices/nvml.py": "1df48d07",
    "devices/precisions.py": "f886230b",
    "devices/reading.py": "66787c07",
    "devices/tpu.py": "44bfb33b",
    "images/kinds.py": "6de0855b",
    "kernels/__init__.py": "b3f49671",
    "kernels/attention_fusion.py": "d07e911a",
    "kernels/autotuned_convolution.py": "2615874d",
    "kernels/build.py": "2fd5c010",
    "kernels/build_worker.py": "a54a7943",
    "kernels/convolution.py": "0a6c29fa",
    "kernels/dat_blocks.py": "fd05ab55",
    "kernels/dense_block.py": "73d42a24",
    "kernels/fused_convolution.py": "2dfc2644",
    "kernels/heartbeat.py": "3fa8ca91",
    "kernels/interface.py": "b35e9ee1",
    "kernels/linear.py": "c759dd05",
    "kernels/numerics.py": "1c933221",
    "kernels/operands.py": "eb1f3129",
    "kernels/packing.py": "70cdfc9b",
    "kernels/rewrite.py": "b406ae76",
    "kernels/shifted_windows.py": "bd62bd72",
    "kernels/timing.py": "3fcd5b6b",
    "kernels/transformer_block.py": "565541d2",
    "kernels/transformer_example.py": "f8ec50a8",
    "kernels/trial.py": "ac6c66f1",
    "kernels/triton_convolution.py": "a676f80a",
    "kernels/window_attention.py": "b734c46a",
    "kernels/winograd.py": "28f2050d",
    "kernels/winograd_modules.py": "5041aef9",
    "kernels/workspace.py": "d51dbffe",
    "latents/any_scale.py": "db9a344c",
    "latents/architectures/__init__.py": "b3f49671",
    "latents/architectures/convolutions.py": "43dd8b0c",
    "latents/architectures/craft.py": "a5dd0279",
    "latents/architectures/dat.py": "96cf163b",
    "latents/architectures/drct.py": "25e55a93",
    "latents/architectures/loading.py": "9a5b6659",
    "latents/architectures/masks.py": "9c741763",
    "latents/architectures/resizer.py": "abed6c6a",
    "latents/architectures/sesqui.py": "b13e5fde",
    "latents/architectures/sfb.py": "8ca123bf",
    "latents/architectures/swinfir.py": "5e501914",
    "latents/architectures/windows.py": "9ba1a3ca",
    "latents/loader.py": "9768b41c",
    "latents/model.py": "2ec5ad85",
    "latents/names.py": "a3930735",
    "memory.py": "f0e8d224",
    "models/__init__.py": "b3f49671",
    "models/construction.py": "8d3fe679",
    "models/cuda_graphs.py": "20ce000a",
    "models/execution.py": "cb5a8c74",
    "models/exported.py": "b17e86c5",
    "models/formats/__init__.py": "b3f49671",
    "models/formats/element_types.py": "fd573886",
    "models/formats/errors.py": "b6a47531",
    "models/formats/exported_file.py": "93253ce3",
    "models/formats/pickle_reader.py": "e4bd6ad5",
    "models/formats/records.py": "31207959",
    "models/formats/safetensors_file.py": "43f97985",
    "models/formats/tensors.py": "ae2f1508",
    "models/formats/torch_file.py": "13b1b16c",
    "models/formats/torch_names.py": "8c268b2e",
    "models/formats/zip_archive.py": "586d8f62",
    "models/header.py": "53d647c0",
    "models/info.py": "9b0f0175",
    "models/latent_upscalers.py": "affef504",
    "models/loader.py": "f5fd29bd",
    "models/meshgrid.py": "7e8796ab",
    "models/pace.py": "ee295414",
    "models/receptive_field.py": "4d88b586",
    "models/result_check.py": "0a05801c",
    "models/runner.py": "f7bea4e1",
    "models/study.py": "8c91bbe2",
    "models/weights.py": "b760880c",
    "storage/artifacts.py": "093f3287",
    "storage/engines_own.py": "fd91d61d",
    "storage/files.py": "7a359812",
    "storage/fingerprint.py": "f808dcb3",
    "storage/heap.py": "ab4780c7",
    "storage/index.py": "263df4e0",
    "storage/memory_limits.py": "41b861f3",
    "storage/ownership.py": "cde3b477",
    "storage/peaks.py": "116189d7",
    "storage/private_copy.py": "2b321ada",
    "storage/processes.py": "ffcb6128",
    "storage/scratch.py": "b3d8c839",
    "tiling/plan.py": "c2549bd9",
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
    assert not found & {"nodes.py", "host/context.py", "upscale_engine.py", "pipeline/run.py"}


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
