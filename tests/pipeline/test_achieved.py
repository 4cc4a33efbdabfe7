"""The share of a device's peak that runs achieve."""

from __future__ import annotations

import pytest
import torch
import zoo

from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.pipeline import session
from cudaspeed.pipeline.achieved import Achieved
from cudaspeed.upscale_engine import upscale

FIRST, SECOND = torch.device("cuda", 0), torch.device("cuda", 1)


def test_it_is_of_the_time_that_batches_took_lately() -> None:
    now = [0.0]
    achieved = Achieved(lambda: now[0])
    assert achieved.share(FIRST) is None, "nothing ran"
    achieved.note(FIRST, at_peak=0.1, seconds=1.0)
    achieved.note(FIRST, at_peak=0.9, seconds=1.5)
    achieved.note(SECOND, at_peak=0.2, seconds=1.0)
    now[0] = 4.0
    assert achieved.share(FIRST) == pytest.approx(0.4)
    assert achieved.share(SECOND) == pytest.approx(0.2)
    now[0] = 6.0
    assert achieved.share(FIRST) is None, "nothing runs any more"


@pytest.mark.parametrize("at_peak, seconds", [(2.0, 1.0), (0.1, 0.0), (0.1, -1.0)])
def test_what_cannot_be_is_none(at_peak: float, seconds: float) -> None:
    achieved = Achieved(lambda: 0.0)
    achieved.note(FIRST, at_peak, seconds)
    assert achieved.share(FIRST) is None


@pytest.mark.parametrize("model, counted", [(zoo.compact, True), (zoo.realcugan, False)])
def test_runs_tell_it_where_the_peak_and_the_operations_are_known(monkeypatch, model, counted: bool) -> None:
    device, achieved = torch.device("cpu"), Achieved()
    monkeypatch.setattr(session, "ACHIEVED", achieved)
    monkeypatch.setattr(session, "peak_rate_of", lambda device, precision: 1e15)
    options = UpscaleOptions(precision="fp32", compile=False)
    upscale(zoo.photograph(40, 40), model(), options, StandaloneContext("cpu"))
    share = achieved.share(device)
    assert (share is not None and 0 < share < 1) if counted else share is None
    monkeypatch.undo()
    upscale(zoo.photograph(40, 40), zoo.compact(), options, StandaloneContext("cpu"))
    assert session.ACHIEVED.share(device) is None, "of this CPU nobody knows the peak"
