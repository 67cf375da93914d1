from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vidistill.core.types import Signal, View


@given(st.integers(1, 50), st.floats(1, 100), st.floats(-5, 60))
def test_nearest_sample_is_nearest(count: int, rate: float, time: float) -> None:
    times = np.arange(count) / rate
    best = np.abs(times - time).min()
    for signal in (Signal(np.zeros(count), rate), Signal(np.zeros(count), rate, times=times)):
        index = signal.nearest(np.array([time]))[0]
        assert abs(times[index] - time) <= best + 1e-9


def test_signals_of_different_rates_meet_at_the_same_time() -> None:
    video, sensor = Signal(np.arange(30), 15.0), Signal(np.arange(100), 50.0)
    times = np.array([0.0, 0.5, 1.0])
    assert video.nearest(times).tolist() == [0, 8, 15]
    assert sensor.nearest(times).tolist() == [0, 25, 50]


@given(st.integers(1, 20), st.integers(1, 40))
def test_resampled_times_stay_within_the_view(frames: int, count: int) -> None:
    view = View("clip", 0, np.sort(np.random.default_rng(0).random(frames)))
    times = view.times_for(count)
    assert len(times) == count
    assert times[0] == view.times[0]
    assert (np.diff(times) >= 0).all()
    assert times[-1] <= view.times[-1]
