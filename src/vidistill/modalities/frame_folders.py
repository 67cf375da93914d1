"""Folders of numbered images as sources: a frame that is missing shifts all later ones in time, so it is named."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from vidistill.core.errors import DataError
from vidistill.core.types import Clip, Signal
from vidistill.data.containers import IMAGES
from vidistill.data.flow_folder import FlowFolder, pairs_in, published_rate
from vidistill.data.frame_series import still_names
from vidistill.modalities.base import make_signal, within

SHOWN = 5


def missing_numbers(names: Iterable[str]) -> list[int]:
    """Numbers that a series of frame names leaves out, in order.

    The number is the last one of a name. Names are a series where all share what stands around that number, no number
    comes twice and at least half of the steps are the same one (1, or 3 in a thinned folder): time stamps are none.
    """
    found = [re.fullmatch(r"(.*?)(\d+)(\D*)", name, re.DOTALL) for name in names]
    matched = [match for match in found if match]
    numbers = sorted({int(match[2]) for match in matched})
    alike = len({(match[1], match[3].lower()) for match in matched}) == 1
    if len(matched) < len(found) or len(numbers) < max(len(found), 3) or not alike:
        return []
    if numbers[-1] >= 1 << 62:
        return []
    steps = np.diff(np.array(numbers, np.int64))
    step, count = Counter(steps.tolist()).most_common(1)[0]
    if 2 * count < len(steps) or (steps % step).any():
        return []
    return [
        int(n) for a, gap in zip(numbers, steps, strict=False) if gap > step for n in range(a + step, a + gap, step)
    ]


def _images(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if file.suffix.lower() in IMAGES and not file.name.startswith(".")]


def check_series(folder: Path) -> None:
    """Refuse a folder whose numbered images leave numbers out; flow that lies beside frames is passed over.

    Raises:
        DataError: naming the first numbers that are missing.
    """
    _check_names(folder, still_names(_images(folder)))


def read_flow_folder(path: Path, clip: Clip, rate: float | None) -> tuple[Signal, dict[str, float]] | None:
    """A clip's flow of a folder of images, `flow_x_*` and `flow_y_*` or `u/*` and `v/*`: levels, uint8 (T, H, W, 2).

    Without a rate it is that of EPIC-KITCHENS' published folders, by their names, and else the clip's.

    Returns:
        The flow, and nothing that the folder says of its levels; None where the path is no folder of such images.

    Raises:
        DataError: an image has no partner, numbers are left out, or nothing lies within the clip's seconds.
        DecodeError: an image cannot be read.
    """
    pairs = pairs_in(path)
    if not pairs:
        return None
    _check_names(path, [x for x, _ in pairs])
    with FlowFolder(path, rate or published_rate(path) or clip.fps) as source:
        inside = within(source.times, source.rate, clip)
        if not len(inside):
            raise DataError(f"no flow between {clip.start} and {clip.end} s", where=str(path))
        return make_signal(source.read(inside), source.times[inside] - clip.start, source.rate), {}


def _check_names(folder: Path, names: list[str]) -> None:
    missing = missing_numbers(names)
    if missing:
        shown = ", ".join(map(str, missing[:SHOWN])) + (", …" if len(missing) > SHOWN else "")
        raise DataError(
            f"{len(missing)} frames are missing between {min(names)} and {max(names)}: {shown}",
            where=str(folder),
            todo="Restore them, or remove the folder from the manifest",
        )
