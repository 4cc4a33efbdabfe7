"""The share of a device's peak that runs achieve."""

from __future__ import annotations

import pytest
import torch

from cudaspeed.pipeline.achieved import Achieved

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
