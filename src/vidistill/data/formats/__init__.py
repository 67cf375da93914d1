"""Readers of data sets as they lie on disk: `FORMATS.get(name)(root, **options)` gives a `Manifest`."""

from __future__ import annotations

from vidistill.data.formats import (
    charades,
    egtea,
    epic_kitchens,
    fewshot_lists,
    fir_room,
    folder,
    frame_lists,
    hmdb51,
    jhmdb,
    manifest_csv,
    ntu_rgbd,
    pku_mmd,
    something_something,
    synthetic_epic,
    thumos14,
    ucf101,
    utd_mhad,
)
from vidistill.data.formats.base import FORMATS, MADE

__all__ = [
    "FORMATS",
    "MADE",
    "charades",
    "egtea",
    "epic_kitchens",
    "fewshot_lists",
    "fir_room",
    "folder",
    "frame_lists",
    "hmdb51",
    "jhmdb",
    "manifest_csv",
    "ntu_rgbd",
    "pku_mmd",
    "something_something",
    "synthetic_epic",
    "thumos14",
    "ucf101",
    "utd_mhad",
]
