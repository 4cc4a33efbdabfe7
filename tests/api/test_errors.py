"""Errors as people and other processes meet them."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

import cudaspeed
from cudaspeed.api import errors
from cudaspeed.api.errors import CudaspeedError

ALL = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, CudaspeedError)]
PACK = Path(cudaspeed.__file__).absolute().parent

# The pack under another name, as ComfyUI imports it; nothing is called cudaspeed there.
PICKLED_ELSEWHERE = """
import importlib.util, pickle, sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
folder = sys.argv[1]
spec = importlib.util.spec_from_file_location("a_pack", folder + "/__init__.py", submodule_search_locations=[folder])
module = importlib.util.module_from_spec(spec)
sys.modules["a_pack"] = module
spec.loader.exec_module(module)
sys.modules["cudaspeed"] = None
error = module.BadImageError("the picture has 5 channels")
again = pickle.loads(pickle.dumps(error))
print(type(again) is module.BadImageError, again)
"""


@pytest.mark.parametrize("kind", ALL)
def test_every_error_is_called_by_the_packs_name_and_found_there(kind: type[CudaspeedError]) -> None:
    told = traceback.format_exception_only(kind, kind("tile size is 5"))
    assert "".join(told).strip() == f"cudaspeed.{kind.__name__}: tile size is 5"
    assert getattr(cudaspeed, kind.__name__) is kind


@pytest.mark.parametrize("kind", ALL)
def test_errors_cross_to_another_process_whole(kind: type[CudaspeedError]) -> None:
    for again in (pickle.loads(pickle.dumps(kind("why"))), copy.copy(kind("why"))):
        assert type(again) is kind
        assert str(again) == "why"


def test_they_do_so_under_whatever_name_the_pack_was_imported(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PICKLED_ELSEWHERE, str(PACK)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "True the picture has 5 channels", done.stderr


def test_an_error_that_is_defined_elsewhere_says_so_too_and_arrives_as_one_of_ours() -> None:
    class FurtherError(CudaspeedError):
        pass

    assert FurtherError.__module__ == "cudaspeed"
    assert type(pickle.loads(pickle.dumps(FurtherError("why")))) is CudaspeedError
