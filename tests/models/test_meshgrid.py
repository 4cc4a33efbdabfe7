"""What torch says of `torch.meshgrid` in spandrel's architectures is not shown, and nothing else is hidden."""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import zoo
from clocks import new_sessions
from safetensors.torch import save_file
from spandrel import ImageModelDescriptor
from spandrel.architectures.FDAT import FDAT, FDATArch

from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.models.loader import load_model
from cudaspeed.models.meshgrid import ExplicitMeshgrid
from cudaspeed.upscale_engine import upscale

SAYS = "torch.meshgrid: in an upcoming release"


@pytest.fixture(autouse=True)
def said_every_time() -> Iterator[None]:
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)


def fdat_with_lda() -> ImageModelDescriptor:
    """It calls `torch.meshgrid` in its forward."""
    torch.manual_seed(0)
    network = FDAT(embed_dim=12, scale=2, depth_per_group=1, num_groups=1, upsampler_type="lda")
    return FDATArch().load(network.state_dict()).eval()


def saved(model: ImageModelDescriptor, folder: Path) -> Path:
    file = folder / "model.safetensors"
    save_file({name: weight.contiguous() for name, weight in model.model.state_dict().items()}, file)
    return file


def meshgrids() -> list[str]:
    """What torch says of one that is called as architectures do."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.meshgrid(torch.arange(2), torch.arange(3))
    return [str(warning.message) for warning in caught]


def test_it_is_called_as_before_and_without_a_word() -> None:
    rows, columns = torch.arange(2), torch.arange(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ExplicitMeshgrid():
            for grids in (
                torch.meshgrid(rows, columns),
                torch.meshgrid([rows, columns]),
                torch.meshgrid((rows, columns)),
            ):
                assert [grid.tolist() for grid in grids] == [[[0, 0, 0], [1, 1, 1]], [[0, 1, 2], [0, 1, 2]]]
            across, _ = torch.meshgrid(rows, columns, indexing="xy")
            assert across.tolist() == [[0, 1], [0, 1], [0, 1]], "what is asked for is kept"


def test_what_others_call_is_still_said() -> None:
    """In other threads meanwhile, and afterwards in ours; and all else that torch has to say."""
    filters = list(warnings.filters)
    said: list[str] = []
    with ExplicitMeshgrid():
        thread = threading.Thread(target=lambda: said.extend(meshgrids()))
        thread.start()
        thread.join()
        with pytest.warns(UserWarning, match="another one"):
            warnings.warn("another one", UserWarning, stacklevel=1)
    assert len(said) == 1
    assert said[0].startswith(SAYS)
    assert meshgrids() == said
    assert warnings.filters == filters


@pytest.mark.parametrize("make", [zoo.swinir, fdat_with_lda], ids=["SwinIR", "FDAT"])
def test_loading_and_upscaling_say_nothing(make, tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = make()
        image, options = zoo.photograph(40, 56), UpscaleOptions(tile=32, compile=False)
        truth = made(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    assert any(str(warning.message).startswith(SAYS) for warning in caught), "spandrel has mended it: drop meshgrid.py"
    file = saved(made, tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = load_model(file)
        for asked in (options, UpscaleOptions(compile=False)):  # the seams' probe, and the picture in one
            result = upscale(image, model, asked, StandaloneContext("cpu"), new_sessions())
    assert not [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
    torch.testing.assert_close(result.image, truth.clamp(0, 1), atol=1e-4, rtol=0)


def test_a_fresh_process_shows_nothing_on_stderr(tmp_path: Path) -> None:
    file = saved(zoo.swinir(), tmp_path)
    code = (
        "import sys, torch, cudaspeed; cudaspeed.upscale(torch.rand(1, 24, 24, 3), cudaspeed.load_model(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "meshgrid" not in done.stderr
