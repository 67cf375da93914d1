"""FIR-Image-Action: untrimmed recordings of one person in a room, nine actions (the colour videos of the set)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.registry import nearest
from vidistill.core.types import Clip, Segment
from vidistill.data.formats.base import FORMATS, need_file, need_folder, usable
from vidistill.data.manifest import Manifest

LISTING, FOLDER = "annotations.json", "video"
EVERY = 3
"""Every third recording tests: names begin with the day and the hour and say the sensor, so that recordings of several
days and of both sensors are in both parts. A later part alone would be the second sensor's only."""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _segment(row: Any, duration: float, slack: float, where: str) -> Segment:
    """One row `{"label": ..., "segment": [start, end]}`; an end within `slack` beyond the video is cut.

    Raises:
        DataError: not such a row, or times that are no numbers, reversed, equal or beyond the video.
    """
    span = row.get("segment") if isinstance(row, dict) else None
    if not isinstance(span, list) or len(span) != 2:
        raise DataError('not {"label": text, "segment": [start, end]}', where=where)
    if not (isinstance(row.get("label"), str) and row["label"].strip()):
        raise DataError(f"the label {row.get('label')!r} is no text", where=where)
    if not all(map(_is_number, span)):
        raise DataError(f"the times {span!r} are not numbers of seconds", where=where, todo="Write them without quotes")
    start, end = float(span[0]), float(span[1])
    if start >= end:
        raise DataError(f"the segment {start} to {end} s is {'empty' if start == end else 'reversed'}", where=where)
    if start < 0 or end > duration + slack:
        raise DataError(f"the segment {start} to {end} s is beyond the video's 0 to {duration:g} s", where=where)
    return Segment(start, min(end, duration), row["label"].strip())


def merged(segments: tuple[Segment, ...], merge: Mapping[str, str], touch: float) -> tuple[Segment, ...]:
    """Segments in order of time under their merged labels.

    Where merging makes neighbours alike that lie at most `touch` seconds apart, they are one segment.
    """
    result: list[tuple[Segment, bool]] = []
    for segment in sorted(segments, key=lambda segment: (segment.start, segment.end)):
        label = merge.get(segment.label, segment.label)
        renamed = label != segment.label
        if result:
            before, before_renamed = result[-1]
            if before.label == label and (renamed or before_renamed) and segment.start - before.end <= touch:
                whole = Segment(before.start, max(before.end, segment.end), label)
                result[-1] = (whole, True)
                continue
        result.append((Segment(segment.start, segment.end, label), renamed))
    return tuple(segment for segment, _ in result)


def _recordings(path: Path) -> dict[str, Any]:
    """The `videos` of the listing.

    Raises:
        DataError: not JSON, or without videos.
    """
    try:
        tree = json.loads(need_file(path, "the list of annotations").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot be read as JSON ({error})", where=str(path)) from None
    videos = tree.get("videos") if isinstance(tree, dict) else None
    if not isinstance(videos, dict) or not videos:
        raise DataError("holds no videos", where=str(path), todo='Write {"videos": {name: {...}}}')
    return dict(sorted(videos.items()))


def _annotated(name: str, entry: Any, where: str) -> tuple[Segment, ...]:
    """The segments of one recording, as listed.

    Raises:
        DataError: its length or one of its rows is wrong; video and row (from 1) are named.
    """
    at = f"{where}: video {name!r}"
    if not isinstance(entry, dict) or not isinstance(entry.get("annotations"), list):
        raise DataError("no list of annotations", where=at)
    for key in ("frames", "fps"):
        if not _is_number(entry.get(key)) or entry[key] <= 0:
            raise DataError(f"{key!r} is {entry.get(key)!r}, not a number above 0", where=at)
    frame = 1.0 / entry["fps"]
    return tuple(
        _segment(row, entry["frames"] * frame, frame, f"{at}: row {number}")
        for number, row in enumerate(entry["annotations"], start=1)
    )


def _check_names(asked: tuple[str, ...], known: Mapping[str, Any] | set[str], what: str) -> None:
    for name in asked:
        if name not in known:
            raise RecipeError(
                f"{what} names {name!r}, which is not there", where="data", todo=nearest(name, sorted(known))
            )


@FORMATS.register("fir_room")
def read_fir_room(
    root: Path, *, test_videos: tuple[str, ...] | None = None, merge: dict[str, str] | None = None
) -> Manifest:
    """Recordings as `video/<name>.mp4` and `annotations.json`: untrimmed clips with segments of `action`, in seconds.

    Args:
        root: folder of both.
        test_videos: names of the recordings that test; None: every third in sorted order (see `EVERY`).
        merge: labels to put under another one, e.g. `{sleeping: lying, falled: lying}`, which the set uses for one
            posture; touching segments that become alike are joined. None: labels stay.

    Raises:
        RecipeError: an option names a recording or a label that is not there.
        DataError: the annotations are wrong (video and row are named), or no recording is there.
    """
    path = need_folder(root) / LISTING
    recordings = _recordings(path)
    merge = merge or {}
    segments = {name: _annotated(name, entry, str(path)) for name, entry in recordings.items()}
    _check_names(tuple(merge), {segment.label for found in segments.values() for segment in found}, "merge")
    if test_videos is None:
        test_videos = tuple(list(recordings)[EVERY - 1 :: EVERY])
    _check_names(test_videos, recordings, "test_videos")
    clips = [
        Clip(
            id=name,
            split="test" if name in test_videos else "train",
            labels={},
            sources={"rgb": f"{FOLDER}/{name}.mp4"},
            fps=float(entry["fps"]),
            frames=int(entry["frames"]),
            segments={"action": merged(segments[name], merge, 1.0 / entry["fps"])},
        )
        for name, entry in recordings.items()
    ]
    return usable(root, clips, "rgb")
