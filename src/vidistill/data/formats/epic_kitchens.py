"""EPIC-KITCHENS-100 and -55: actions of a verb and a noun in long first-person videos (Damen et al., IJCV 2022).

The annotations are the published CSV files. EPIC-55 also has them as pickles, as Radevski et al. (ICCV 2023) read
them: those are refused, for a pickle can run code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.types import Clip
from vidistill.data.formats.base import FORMATS, first_folder, need_file, need_folder
from vidistill.data.formats.epic_rows import (
    EpicRow,
    Names,
    Version,
    all_classes,
    class_names,
    frame_rate,
    named,
    read_rows,
    subset_ids,
)
from vidistill.data.hdf5_frames import without_absent
from vidistill.data.manifest import Manifest, Problem

Head = Literal["verb", "noun", "action"]
Media = Literal["videos", "frames", "hdf5"]

LISTS: dict[int, dict[str, str | None]] = {
    100: {"train": "EPIC_100_train.csv", "test": "EPIC_100_validation.csv"},
    55: {"train": "EPIC_train_action_labels.csv", "test": None},
}
"""Names of the lists by version; EPIC-55 publishes labels of one."""

ODD_ROWS = frozenset({"36787", "36788"})
"""Actions of EPIC-55 that the released code leaves out."""

PLACES: dict[str, tuple[str, ...]] = {
    "videos": ("{participant}/videos/{video}{ending}", "{participant}/{video}{ending}", "{video}{ending}"),
    "frames": ("{participant}/rgb_frames/{video}", "{participant}/{video}", "{video}"),
}
FLOW_PLACE = "{participant}/flow_frames/{video}"
"""Folders `u` and `v` of images."""
ENDINGS = (".MP4", ".mp4")


class _Options(NamedTuple):
    """Where a clip's sources are."""

    root: Path
    media: Media
    files: dict[str, str]


@FORMATS.register("epic_kitchens")
def read_epic_kitchens(
    root: Path,
    *,
    version: Version = 100,
    annotations: str | None = None,
    train: str | None = None,
    test: str | None = None,
    media: Media = "videos",
    files: dict[Literal["rgb", "flow", "audio", "boxes"], str] | None = None,
    heads: tuple[Head, ...] = ("verb", "noun"),
    labels: Names = "name",
    participants: tuple[str, ...] | None = None,
    test_participants: tuple[str, ...] | None = None,
    variant: Literal["default", "released"] = "default",
) -> Manifest:
    """Actions of EPIC-KITCHENS, each a stretch of its video; the published validation list is test.

    Media below `root`: `P01/videos/P01_11.MP4` (sound is taken from the same file); or frames as published,
    `P01/rgb_frames/P01_11/frame_0000000001.jpg`, 60 a second, 50 in videos whose number has three digits; or the HDF5
    files of Radevski et al., one a modality. Beside videos or frames published flow, `P01/flow_frames/P01_11/u` and
    `v`, is taken where it is there. The group of a clip is its video. Actions whose media are not there are
    problems: a part of the set is enough. The classes are those of the lists, in the order of their numbers, whichever
    of them the videos show; `action` has the pairs that the lists name.

    Where the published lists of tail classes and of unseen participants lie in the folder of the lists, results are
    also told for the clips of tail verbs, of tail nouns, of both, of either, and of unseen participants.

    Args:
        root: folder of the media.
        version: 100 or 55.
        annotations: folder of the lists, below `root` or absolute; by default `annotations` or `root` itself.
        train: another list of training actions in this folder.
        test: another list of test actions. EPIC-55 publishes none: give one, or `test_participants`.
        media: what lies below `root`.
        files: HDF5 files by modality, below `root`. Of `hdf5`: `rgb` and `flow` with an action's frames as
            `/<video>/<action>`, and `audio` with a video's waveform as `/<video>`; without the option `video.hdf5` is
            `rgb`. Of all media: `boxes` with a video's detections as `/<video>/<frame>`; of `videos` and `frames` also
            `audio`, as above. What a file does not hold, the clip lacks; without `rgb` it is a problem.
        heads: what is learned: `verb`, `noun`, and `action`, which is the pair of both.
        labels: classes go by the lists' "name" (`EPIC_100_verb_classes.csv`), or by their "number". Both are in the
            order of published classifiers.
        participants: only these participants' actions, of both lists; None: all.
        test_participants: whose actions test. With a test list: only theirs are kept of it, as P18 and P32 for the
            unseen kitchens of EPIC-100. Without one: theirs are taken out of train.
        variant: "released" leaves out two actions of EPIC-55 as the released code does, which does not say why.

    Raises:
        RecipeError: options that do not fit each other.
        DataError: a list is missing or wrong (file, row and column are named), or no listed action is there.
    """
    need_folder(root)
    if not heads:
        raise RecipeError("heads is empty", where="data", todo="Name verb, noun or action")
    options = _Options(root, media, _checked_files(media, {str(name): file for name, file in (files or {}).items()}))
    lists = first_folder(root, annotations, "annotations")
    parts = listed = _parts(lists, version, train, test, test_participants)
    if version == 55 and variant == "released":
        parts = {part: [row for row in rows if row.id not in ODD_ROWS] for part, rows in parts.items()}
    if participants is not None:
        parts = {part: [row for row in rows if row.participant in participants] for part, rows in parts.items()}
    for name, file in options.files.items():
        need_file(root / file, f"the HDF5 file of {name}")
    names = {head: class_names(lists, head, version, labels) for head in ("verb", "noun")}
    places = _places(options, [row for rows in parts.values() for row in rows])
    flows = _flow_places(options, places)
    clips: list[Clip] = []
    problems: list[Problem] = []
    for part, rows in parts.items():
        for row in rows:
            place = places[row.video]
            if place is None:
                problems.append(Problem(row.id, "missing", f"the video {row.video} is listed but not in {root}"))
                continue
            verb = named(row.verb, names["verb"], "verb", row)
            noun = named(row.noun, names["noun"], "noun", row)
            known = {"verb": verb, "noun": noun, "action": f"{verb} {noun}"}
            clip = _clip(row, part, {head: known[head] for head in heads}, place, options)
            clips.append(replace(clip, sources={**clip.sources, **flows.get(row.video, {})}))
    if not clips:
        told = f", e.g. {problems[0].message}" if problems else " of these participants"
        raise DataError(f"none of the {len(problems)} listed actions is there{told}", where=str(root))
    rows = [row for rows in listed.values() for row in rows]
    fixed = {str(head): _classes(head, lists, version, labels, names, rows) for head in heads}
    manifest = Manifest(root, tuple(clips), tuple(problems), fixed)
    manifest = without_absent(manifest, ("rgb",)) if options.files else manifest
    return replace(manifest, subsets=subset_ids(manifest.clips, lists, labels, version))


def _classes(
    head: Head,
    lists: Path,
    version: Version,
    labels: Names,
    names: Mapping[str, Mapping[int, str]],
    rows: Sequence[EpicRow],
) -> tuple[str, ...]:
    """All classes of a head; those of `action` are the pairs of the rows, by verb and then by noun."""
    if head != "action":
        return all_classes(lists, head, version, labels, {getattr(row, head) for row in rows})
    pairs = {(row.verb, row.noun): row for row in rows}
    return tuple(
        f"{named(verb, names['verb'], 'verb', row)} {named(noun, names['noun'], 'noun', row)}"
        for (verb, noun), row in sorted(pairs.items())
    )


def _checked_files(media: Media, files: dict[str, str]) -> dict[str, str]:
    """The HDF5 files, by modality.

    Raises:
        RecipeError: a modality that cannot come from such a file beside these media.
    """
    if media != "hdf5":
        odd = sorted({"rgb", "flow"} & files.keys())
        todo = f"Set 'media: hdf5', or leave {odd[0]} out" if odd else ""
    else:
        files = files or {"rgb": "video.hdf5"}
        odd = [] if "rgb" in files else ["rgb"]
        todo = "Name the file of rgb"
    if odd:
        raise RecipeError(f"files: {odd[0]} does not fit 'media: {media}'", where="data", todo=todo)
    return files


def _parts(
    lists: Path, version: Version, train: str | None, test: str | None, test_participants: Sequence[str] | None
) -> dict[str, list[EpicRow]]:
    """The actions of train and test.

    Raises:
        RecipeError: nothing says what tests.
        DataError: a list is missing or wrong, an action is in both, or a part is empty.
    """
    names = {"train": train or LISTS[version]["train"], "test": test or LISTS[version]["test"]}
    found = {part: read_rows(lists / name, version) for part, name in names.items() if name is not None}
    if test_participants is not None:
        source = found.get("test", found["train"])
        tests = [row for row in source if row.participant in test_participants]
        if not tests:
            raise DataError(f"no action is of the participants {', '.join(test_participants)}", where=str(lists))
        if "test" not in found:
            found["train"] = [row for row in source if row.participant not in test_participants]
        found["test"] = tests
    if "test" not in found:
        raise RecipeError("nothing says what tests", where="data", todo="Give test_participants, or a list as test")
    both = {row.id for row in found["train"]} & {row.id for row in found["test"]}
    if both:
        raise DataError(f"{len(both)} actions are in both lists, e.g. {min(both)!r}", where=str(lists))
    return found


def _places(options: _Options, rows: Sequence[EpicRow]) -> dict[str, str | None]:
    """Where each video lies, relative to the root; None: nowhere. Any place is right for HDF5 files."""
    people = {row.video: row.participant for row in rows}
    if options.media == "hdf5":
        return dict.fromkeys(people, "")
    found: dict[str, str | None] = {}
    for video, participant in people.items():
        choices = [
            place.format(participant=participant, video=video, ending=ending)
            for place in PLACES[options.media]
            for ending in (ENDINGS if options.media == "videos" else ("",))
        ]
        there = Path.is_file if options.media == "videos" else Path.is_dir
        found[video] = next((choice for choice in choices if there(options.root / choice)), None)
    return found


def _flow_places(options: _Options, videos: Iterable[str]) -> dict[str, dict[str, str]]:
    """The sources of flow of the videos that have some, in folders of images beside videos or frames."""
    if options.media == "hdf5":
        return {}
    places = {video: FLOW_PLACE.format(participant=video.partition("_")[0], video=video) for video in videos}
    return {video: {"flow": place} for video, place in places.items() if (options.root / place).is_dir()}


def _clip(row: EpicRow, part: str, labels: dict[str, str], place: str, options: _Options) -> Clip:
    """One action with its sources.

    Videos are cut by time stamps. Frames are cut by frame numbers, which are what the lists mean: frame n is shown
    (n - 1) / rate seconds after the start. A dataset of an HDF5 file has the action's frames alone.
    """
    rate = frame_rate(row.video)
    frames = row.last - row.first + 1
    start, end, files = row.start, row.end, options.files
    sources: dict[str, str]
    if options.media == "hdf5":
        sources = {name: f"{files[name]}#{row.video}/{row.id}" for name in ("rgb", "flow") if name in files}
        # These start at the video, the frames at the action: the key says where.
        stretch = ":".join(np.format_float_positional(time, trim="0") for time in (row.start, row.end))
        sources |= {name: f"{files[name]}#{row.video}[{stretch}]" for name in ("audio", "boxes") if name in files}
        return Clip(row.id, part, labels, sources, fps=rate, frames=frames, group=row.video)
    sources = {"rgb": place}
    if options.media == "videos":
        sources["audio"] = place
    else:
        start, end = (row.first - 1) / rate, row.last / rate
    sources |= {name: f"{file}#{row.video}" for name, file in files.items()}
    counted = frames if options.media == "frames" else None
    return Clip(row.id, part, labels, sources, start, end, fps=rate, frames=counted, group=row.video)
