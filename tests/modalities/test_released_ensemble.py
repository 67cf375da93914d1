"""The released pictures of the ensemble system; their numbers are compared in tests/parity."""

from __future__ import annotations

import numpy as np

from vidistill.modalities.released_ensemble import crop_major, fixed_crops, three_crops, to_unit, train_crop


def numbered(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack((rows, columns, rows * 0), -1).astype(np.uint8)


def test_three_crops_go_along_the_longer_side_and_miss_the_last_pixel_of_an_odd_margin() -> None:
    wide = three_crops(numbered(32, 43), 32)
    assert wide[:, 0, 0, 1].tolist() == [0, 10, 5] and wide[1, 0, -1, 1] == 41
    tall = three_crops(numbered(42, 32), 32)
    assert tall[:, 0, 0, 0].tolist() == [0, 10, 5]


def test_views_of_several_clips_are_crop_major() -> None:
    video = np.stack([np.full((40, 50, 3), 10 * frame, np.uint8) for frame in range(6)])
    views = crop_major(fixed_crops(video, 32, 3), clips=2)
    assert views.shape == (6, 3, 3, 32, 32)
    np.testing.assert_allclose(views[:, 0, 0, 0, 0] * 255, [0, 30] * 3)


def test_a_training_crop_without_jitter_is_the_crop() -> None:
    video = numbered(40, 50)[None].repeat(2, 0)
    found = train_crop(video, 40, (4, 6, 32, 32))
    np.testing.assert_array_equal(found, to_unit(video[:, 4:36, 6:38]))


def test_jitter_goes_in_the_order_that_was_drawn() -> None:
    video = np.random.default_rng(0).integers(0, 256, (1, 40, 40, 3)).astype(np.uint8)
    strengths = (1.2, 1.2, 0.8, 0.1)
    one, other = (train_crop(video, 40, (0, 0, 32, 32), order, strengths) for order in ([0, 1, 2, 3], [3, 2, 1, 0]))
    assert np.abs(one - other).max() > 1 / 255
