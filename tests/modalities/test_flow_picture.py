from __future__ import annotations

import numpy as np

from vidistill.modalities.flow_picture import flow_picture


def test_directions_have_their_colours_and_rest_is_black() -> None:
    flow = np.zeros((1, 1, 5, 2))
    flow[0, 0, :4] = [(2, 0), (0, 2), (-2, 0), (0, -2)]
    right, down, left, up, rest = flow_picture(flow)[0, 0].astype(int)
    assert right.tolist() == [255, 0, 0] and left.tolist() == [0, 255, 255] and rest.tolist() == [0, 0, 0]
    assert down[1] == 255 and down[2] == 0 and up[2] == 255 and up[1] == 0


def test_frames_share_one_brightness_unless_released() -> None:
    flow = np.zeros((2, 1, 2, 2))
    flow[0, 0, 0, 0], flow[1, 0, 0, 0] = 4.0, 1.0
    assert flow_picture(flow)[:, 0, 0, 0].tolist() == [255, 63]
    assert flow_picture(flow, scale=8.0)[:, 0, 0, 0].tolist() == [127, 31]
    assert flow_picture(flow, variant="released")[:, 0, 0, 0].tolist() == [255, 255]


def test_no_frames_and_no_motion_give_pictures_too() -> None:
    assert flow_picture(np.zeros((0, 3, 4, 2))).shape == (0, 3, 4, 3)
    assert flow_picture(np.zeros((2, 3, 4, 2))).max() == 0
    assert flow_picture(np.zeros((2, 3, 4, 2)), variant="released").max() == 0
