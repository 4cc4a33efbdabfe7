"""Known receptive fields are no smaller than measured ones, and nothing is said of what only has a known name."""

from __future__ import annotations

import time

import pytest
import torch
import zoo
from spandrel.architectures.ESRGAN import ESRGAN, ESRGANArch

from bench.photograph import EXAMPLE
from bench.seams import random_model, read
from cudaspeed.api.upstream import architecture_call
from cudaspeed.models import known_fields
from cudaspeed.models.info import model_info
from cudaspeed.models.known_fields import known_receptive_field
from cudaspeed.models.loader import find_models, load_model
from cudaspeed.models.receptive_field import ReceptiveField, measure_receptive_field

CPU = torch.device("cpu")
# What takes a test too long was measured by `python -m bench.seams`: docs/seams.md.
SLOW = {
    "ATD": ReceptiveField(6, unbounded=False),
    "CRAFT": ReceptiveField(15, unbounded=True),
    "DCTLSA": ReceptiveField(25, unbounded=False),
    "DRCT": ReceptiveField(5, unbounded=False),
    "ESRGAN": ReceptiveField(4, unbounded=False),
    "GRL": ReceptiveField(16, unbounded=True),
    "IPT": ReceptiveField(1, unbounded=True),
    "RGT": ReceptiveField(24, unbounded=True),
}
ARCHITECTURES = sorted([*known_fields._RULES, "RealPLKSR"])  # of PLKSR's id there are two networks


def measured(model) -> ReceptiveField | None:
    call = architecture_call(model)

    def forward(x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return call(model.model, x)

    return measure_receptive_field(forward, model_info(model), CPU)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_known_is_no_less_than_what_is_measured(name: str) -> None:
    model = random_model(name, read(EXAMPLE, 128)[..., :64, :64])
    known, found = known_receptive_field(model), SLOW.get(name) or measured(model)
    assert known is not None
    assert found is not None
    assert known.unbounded >= found.unbounded
    assert known.pixels >= found.pixels


def test_the_bundled_models_are_known_exactly_until_somebody_trains_them_further() -> None:
    bundled = [load_model(path) for name, path in find_models().items() if name.startswith("cudaspeed")]
    assert bundled
    for model in bundled:
        known = known_receptive_field(model)
        assert known == measured(model)
        with torch.no_grad():
            next(model.model.parameters()).mul_(1.01)
        assert known_receptive_field(model) == ReceptiveField(14, unbounded=False)


# Real-ESRGAN's and Real-CUGAN's authors' files, DAT light's, DnCNN's; see docs/seams.md.
@pytest.mark.parametrize(
    ("model", "least"),
    [
        (lambda: zoo.compact(convs=16), ReceptiveField(14, unbounded=False)),
        (lambda: esrgan(6), ReceptiveField(48, unbounded=False)),
        (lambda: esrgan(23), ReceptiveField(9, unbounded=True)),
        (zoo.realcugan, ReceptiveField(7, unbounded=True)),
    ],
)
def test_it_is_no_less_than_trained_models_were_measured_to_have(model, least: ReceptiveField) -> None:
    known = known_receptive_field(model())
    assert known is not None
    assert known.pixels >= least.pixels
    assert known.unbounded == least.unbounded


def esrgan(blocks: int):
    return ESRGANArch().load(ESRGAN(in_nc=3, out_nc=3, num_filters=8, num_blocks=blocks, scale=4).state_dict())


def test_deeper_models_look_further_and_a_folded_convolution_counts_once() -> None:
    fields = [known_receptive_field(zoo.compact(convs=convs)) for convs in (1, 3, 16, 32)]
    assert [field.pixels for field in fields if field] == [3, 5, 15, 21]
    assert known_receptive_field(zoo.span()) == ReceptiveField(17, unbounded=False)


def test_pixels_that_are_folded_into_channels_are_the_pictures_own() -> None:
    network = ESRGAN(in_nc=12, out_nc=3, num_filters=8, num_blocks=1, scale=4)
    folded = ESRGANArch().load(network.state_dict())
    assert folded.scale == 2
    known, plain = known_receptive_field(folded), known_receptive_field(esrgan(1))
    assert known is not None
    assert plain is not None
    assert known.pixels == 2 * plain.pixels


@pytest.mark.parametrize("build", [zoo.toy, zoo.toy_attention])
def test_a_toy_under_an_architectures_name_is_unknown(build) -> None:
    assert known_receptive_field(build()) is None


def test_asking_costs_next_to_nothing() -> None:
    model = esrgan(23)
    best = 1.0
    for _ in range(5):
        began = time.perf_counter()
        known_receptive_field(model)
        best = min(best, time.perf_counter() - began)
    assert best < 0.03, "half a second was measured for the probes it replaces"
