"""Folders of numbered images as sources: a frame that is missing shifts all later ones in time, so it is named."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from vidistill.core.errors import DataError
from vidistill.data.containers import IMAGES

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


def check_series(folder: Path) -> None:
    """Refuse a folder whose numbered images leave numbers out.

    Raises:
        DataError: naming the first numbers that are missing.
    """
    names = [file.name for file in folder.iterdir() if file.suffix.lower() in IMAGES and not file.name.startswith(".")]
    missing = missing_numbers(names)
    if missing:
        shown = ", ".join(map(str, missing[:SHOWN])) + (", …" if len(missing) > SHOWN else "")
        raise DataError(
            f"{len(missing)} frames are missing between {min(names)} and {max(names)}: {shown}",
            where=str(folder),
            todo="Restore them, or remove the folder from the manifest",
        )
