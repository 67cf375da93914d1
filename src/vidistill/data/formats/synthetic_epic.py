"""A generated set in the form of EPIC-KITCHENS-100, made where it is not there yet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from vidistill.core.progress import console
from vidistill.data.formats.base import FORMATS, MADE
from vidistill.data.formats.epic_kitchens import Head, read_epic_kitchens
from vidistill.data.manifest import Manifest

MADE.add("synthetic_epic")


@FORMATS.register("synthetic_epic")
def read_synthetic_epic(
    root: Path,
    *,
    annotations: str | None = None,
    clips: Annotated[int, Field(ge=8)] = 280,
    verbs: Annotated[int, Field(ge=2, le=8)] = 5,
    nouns: Annotated[int, Field(ge=2, le=8)] = 6,
    without_audio: Annotated[float, Field(ge=0, le=1)] = 0.0,
    seed: int = 0,
    heads: tuple[Head, ...] = ("verb", "noun"),
) -> Manifest:
    """Generated videos with sound and boxes of short actions, read as `epic_kitchens` reads the real ones.

    Args:
        root: folder of generated sets; each set of options has a folder of its own there.
        annotations: folder of the published lists: their rows say what happens where and when. Where it is absent, or
            not given, such rows are made up, and a note says so.
        clips: at most so many actions.
        verbs: how many verbs are shown.
        nouns: how many nouns are shown.
        without_audio: part of the videos that lack a sound track.
        seed: everything random follows from it.
        heads: what is learned: `verb`, `noun`, and `action`, which is the pair of both.

    Raises:
        DataError: the lists are wrong, or the set cannot be written.
    """
    # The set is made by code that reads the real set's lists, which are a part of this package.
    from vidistill.data.synthetic_epic import DETECTIONS, make_synthetic_epic

    lists = Path(annotations) if annotations is not None else None
    if lists is not None and not lists.is_dir():
        console.print(f"[yellow]note[/yellow] {lists} is not there: the generated set has made-up annotation rows")
        lists = None
    folder = make_synthetic_epic(
        root, annotations=lists, clips=clips, verbs=verbs, nouns=nouns, without_audio=without_audio, seed=seed
    )
    return read_epic_kitchens(folder, files={"boxes": DETECTIONS}, heads=heads)
