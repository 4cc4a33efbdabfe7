"""Every part of the path is timed, and each second counted once."""

from __future__ import annotations

import pytest
import torch
import zoo

from bench import overhead
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext


def test_a_part_s_seconds_are_without_those_of_the_parts_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 4.0, 6.0])  # outer begins, inner begins, inner ends, outer ends
    monkeypatch.setattr(overhead.time, "perf_counter", lambda: next(clock))
    watch = overhead.Stopwatch(torch.device("cpu"))
    watch.timed("outer", watch.timed("inner", lambda: None))()
    assert watch.seconds == {"outer": 3, "inner": 3}


def test_every_part_of_the_path_is_met_under_the_name_it_is_timed_by(monkeypatch: pytest.MonkeyPatch) -> None:

    met, timed = set(), overhead.Stopwatch.timed

    def remembering(watch: overhead.Stopwatch, name: str, function):
        def call(*args, **kwargs):
            met.update({function} if name in overhead.PARTS else ())
            return function(*args, **kwargs)

        return timed(watch, name, call)

    monkeypatch.setattr(overhead.Stopwatch, "timed", remembering)
    options = UpscaleOptions(precision="fp32", tile=64, compile=False)
    row = overhead.measure(zoo.compact(2), zoo.photograph(100, 64), options, StandaloneContext("cpu"), rounds=1)
    assert all(took > 0 for took in row["parts"].values()), row["parts"]
    on_streams = {overhead.upload.StreamUpload, overhead.download.StreamDownload}  # which a CPU has not
    wanted = [place for places in overhead.PARTS.values() for place in places if place[0] not in on_streams]
    assert met == {getattr(owner, name) for owner, name in wanted}
    assert row["tiles"] > 1
    assert row["recomputed"] == pytest.approx(row["tiles"] * row["tile"][0] * row["tile"][1] / 6400 - 1)
    assert row["overhead"] == pytest.approx(row["seconds"] / row["tiles_seconds"] - 1)
