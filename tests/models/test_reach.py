"""How far models can see, by their layers and as tried."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import zoo
from spandrel import ImageModelDescriptor

from cudaspeed.models.info import model_info
from cudaspeed.models.reach import counted_reach, reaches_no_further


@pytest.mark.parametrize(("make", "reach"), [(zoo.compact, 5), (zoo.esrgan, 20), (zoo.grey_denoiser, 4)])
def test_it_is_at_least_what_the_model_sees(make: Callable[[], ImageModelDescriptor], reach: int) -> None:
    model = make()
    counted = counted_reach(model)
    assert counted
    assert counted >= reach
    with torch.inference_mode():
        assert reaches_no_further(counted, model_info(model), model.model)
        assert not reaches_no_further(1, model_info(model), model.model)


@pytest.mark.parametrize("make", [zoo.swinir, zoo.fdat, zoo.rcan_unshuffle, zoo.realcugan, zoo.toy])
def test_where_layers_do_not_tell(make: Callable[[], ImageModelDescriptor]) -> None:
    assert counted_reach(make()) is None


def test_what_happens_between_layers_is_found_out() -> None:
    model = zoo.compact()
    layers = model.model.forward
    model.model.forward = lambda x: layers(x - x.mean(dim=(2, 3), keepdim=True))
    counted = counted_reach(model)
    assert counted == 5
    with torch.inference_mode():
        assert not reaches_no_further(counted, model_info(model), model.model)
