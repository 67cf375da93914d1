"""Optical flow as colours for people: hue is the direction, brightness the speed."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray


def flow_picture(
    flow: NDArray[np.floating], scale: float | None = None, variant: Literal["default", "released"] = "default"
) -> NDArray[np.uint8]:
    """Flow (T, H, W, 2) as RGB uint8 (T, H, W, 3): right is red, down is yellow-green, left is cyan, up is violet.

    Args:
        flow: (u, v), zero is no motion, any unit.
        scale: speed of full brightness (None: the largest in the clip). No motion is black.
        variant: "released" stretches each frame between its own slowest and fastest pixel, as the code of Luo et al.
            (ECCV 2018) does: the noise of a still frame is as bright there as a run, and frames cannot be compared.
    """
    vectors = np.asarray(flow, np.float32)
    speed, degrees = _polar(vectors)
    if variant == "released":
        low, high = speed.min((1, 2), keepdims=True), speed.max((1, 2), keepdims=True)
        brightness = (speed - low) / np.maximum(high - low, 1e-12)
    else:
        brightness = speed / max(float(speed.max(initial=0.0)) if scale is None else scale, 1e-12)
    hue = np.minimum(degrees / 2.0, 179.0)
    value = np.clip(brightness, 0.0, 1.0) * 255.0
    colours = np.stack((hue, np.full_like(hue, 255.0), value), -1).astype(np.uint8)
    pictures = [cv2.cvtColor(frame, cv2.COLOR_HSV2RGB) for frame in colours]
    return np.asarray(np.stack(pictures) if pictures else colours, np.uint8)


def _polar(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Length, and direction in degrees from 0 to 360, of vectors (..., 2); OpenCV's, as in the published code."""
    shape = vectors.shape[:-1]
    if not vectors.size:
        return np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    flat = vectors.reshape(-1, 2)
    length, angle = cv2.cartToPolar(np.ascontiguousarray(flat[:, 0]), np.ascontiguousarray(flat[:, 1]))
    return np.asarray(length, np.float32).reshape(shape), np.rad2deg(angle, dtype=np.float32).reshape(shape)
