"""Readers of data sets as they lie on disk: `FORMATS.get(name)(root, **options)` gives a `Manifest`."""

from __future__ import annotations

from vidistill.data.formats import (
    fewshot_lists,
    fir_room,
    folder,
    frame_lists,
    hmdb51,
    jhmdb,
    manifest_csv,
    ntu_rgbd,
    pku_mmd,
    ucf101,
    utd_mhad,
)
from vidistill.data.formats.base import FORMATS

__all__ = [
    "FORMATS",
    "fewshot_lists",
    "fir_room",
    "folder",
    "frame_lists",
    "hmdb51",
    "jhmdb",
    "manifest_csv",
    "ntu_rgbd",
    "pku_mmd",
    "ucf101",
    "utd_mhad",
]
