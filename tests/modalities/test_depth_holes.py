from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vidistill.modalities.depth_holes import fill_holes


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 999), height=st.integers(1, 12), width=st.integers(1, 12), density=st.sampled_from([0.02, 0.3])
)
def test_every_hole_takes_a_pixel_than_which_none_is_nearer(seed, height, width, density) -> None:
    random = np.random.default_rng(seed)
    valid = random.uniform(size=(2, height, width)) < density
    frames = np.arange(2 * height * width).reshape(2, height, width)
    filled = fill_holes(frames, valid)
    assert (filled[valid] == frames[valid]).all()
    for frame, there, result in zip(frames, valid, filled, strict=True):
        if not there.any():
            assert (result == frame).all()
            continue
        points = np.argwhere(there)
        place = np.argwhere(np.ones_like(there))
        nearest = ((place[:, None] - points) ** 2).sum(-1).min(1)
        chosen = np.stack(np.divmod(result.ravel() - frame[0, 0], width), 1)
        assert there[chosen[:, 0], chosen[:, 1]].all()
        assert (((place - chosen) ** 2).sum(1) == nearest).all()


def test_holes_of_pictures_take_whole_pixels() -> None:
    frames = np.zeros((1, 2, 3, 3), np.uint8)
    frames[0, 0, 0] = (1, 2, 3)
    valid = np.zeros((1, 2, 3), bool)
    valid[0, 0, 0] = True
    assert (fill_holes(frames, valid) == (1, 2, 3)).all()
