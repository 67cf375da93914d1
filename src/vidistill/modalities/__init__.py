"""Modalities by name. One file each; importing this package files them all."""

from __future__ import annotations

from vidistill.modalities import audio, boxes, depth, flow, inertial, pose, rgb, skeleton
from vidistill.modalities.base import MODALITIES, Encoding, Modality, SignalAbsent, SourceOptions, get_modality

__all__ = [
    "MODALITIES",
    "Encoding",
    "Modality",
    "SignalAbsent",
    "SourceOptions",
    "audio",
    "boxes",
    "depth",
    "flow",
    "get_modality",
    "inertial",
    "pose",
    "rgb",
    "skeleton",
]
