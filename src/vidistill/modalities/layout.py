"""The layout of a scene: boxes that say what they are, as slots that the layout transformer reads.

Source: Radevski et al., Multimodal Distillation for Egocentric Action Recognition, ICCV 2023, arXiv 2307.07483; the
slots are those of its layout teacher, STLT.

A slot is `COLUMNS` numbers: x1, y1, x2, y2 as fractions, score, class (0 nothing, 1 object, 2 hand), side of a hand (0
unknown, 1 left, 2 right) and state of its contact (0 unknown, 1 .. 5). A slot of class 0 is padding, and is zeros
throughout. The published padding is a box of 1e-9 pixels, which nothing looks at.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vidistill.core.errors import DataError
from vidistill.core.types import View

COLUMNS = 8
"""Numbers a slot, in this order: x1, y1, x2, y2, score, class, side, state."""
SCORE, CLASS, SIDE, STATE = 4, 5, 6, 7
CLASSES, SIDES, STATES = 3, 3, 6
"""How many values each of the last three columns can take, the 0 of "none" included."""
OBJECT, HAND = 1, 2


def in_view(boxes: torch.Tensor, view: View, present: torch.Tensor | None = None) -> torch.Tensor:
    """Boxes (T, N, 5 or more) in fractions of a view's crop, clipped to it; a box left with no area becomes zeros.

    `present` (T, N) says which boxes there are; without it, those with a score above 0.
    """
    x0, y0, x1, y1 = view.box
    origin = torch.tensor([x0, y0, x0, y0])
    extent = torch.tensor([x1 - x0, y1 - y0, x1 - x0, y1 - y0])
    corners = ((boxes[..., :4] - origin) / extent).clamp(0.0, 1.0)
    if view.flip:
        corners = torch.stack((1 - corners[..., 2], corners[..., 1], 1 - corners[..., 0], corners[..., 3]), -1)
    there = boxes[..., SCORE] > 0 if present is None else present
    left = (corners[..., 2] > corners[..., 0]) & (corners[..., 3] > corners[..., 1]) & there
    return torch.cat((corners, boxes[..., 4:]), -1) * left[..., None]


def as_slots(values: NDArray[Any]) -> torch.Tensor:
    """Stored boxes (T, N, 5, 6 or 8) as slots (T, N, COLUMNS); without a class column every scored box is an object.

    Raises:
        DataError: a class, side or state that slots do not have.
    """
    slots = torch.zeros(*values.shape[:2], COLUMNS)
    slots[..., : values.shape[2]] = torch.from_numpy(np.array(values, np.float32))
    if values.shape[2] <= CLASS:
        slots[..., CLASS] = (slots[..., SCORE] > 0).float() * OBJECT
    for name, column, count in (("class", CLASS, CLASSES), ("side", SIDE, SIDES), ("state", STATE, STATES)):
        numbers = slots[..., column]
        strange = (numbers < 0) | (numbers >= count) | (numbers != numbers.round())
        if strange.any():
            raise DataError(
                f"a box of {name} {float(numbers[strange][0]):g}, but a layout knows 0 to {count - 1}",
                todo="Say which classes are hands: prepare.sources.boxes.hands." if name == "class" else None,
            )
    return slots


def layout_in_view(values: NDArray[Any], view: View, count: int) -> torch.Tensor:
    """Stored boxes (T, N, 5, 6 or 8) as slots (T, count, COLUMNS) of a view: the boxes in its crop first, then padding.

    In a mirrored view left and right hands change their sides: a mirrored left hand cannot be told from a right hand,
    it has its shape and comes from where right hands come from.
    """
    slots = as_slots(values)
    slots = in_view(slots, view, slots[..., CLASS] > 0)
    if view.flip:
        side = slots[..., SIDE]
        slots[..., SIDE] = torch.where(side > 0, SIDES - side, side)
    first = (slots[..., CLASS] == 0).to(torch.uint8).argsort(dim=1, stable=True)[:, :count]
    kept = slots.gather(1, first[..., None].expand(-1, -1, COLUMNS))
    return torch.nn.functional.pad(kept, (0, 0, 0, count - kept.shape[1]))


def fix_box(boxes: NDArray[Any], width: int, height: int) -> NDArray[np.float64]:
    """The published repair of boxes (..., 4) in pixels, in this order: nothing below 0, whole pixels (fractions cut
    off), ends in order, nothing beyond the last pixel, and a box of no extent grows by one pixel, down where it can.

    It moves sound boxes too, and turns a box that lies outside of the frame into one at its edge; released only.
    """
    low, high = np.split(np.trunc(np.maximum(np.asarray(boxes, np.float64), 0.0)), 2, axis=-1)
    last = np.array([width - 1, height - 1], np.float64)
    low, high = np.minimum(np.minimum(low, high), last), np.minimum(np.maximum(low, high), last)
    flat = low == high
    high = np.where(flat & (low == 0), high + 1, high)
    low = np.where(flat & (low > 0), low - 1, low)
    return np.concatenate((low, high), -1)
