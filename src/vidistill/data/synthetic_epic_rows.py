"""What happens in the generated kitchen set: rows of the published EPIC-KITCHENS-100 lists, or made-up rows like them.

Published rows are kept as they are, cell by cell: participant, video, time stamps, frames, narration, classes. Taken
are short actions near the beginning of their videos, for a generated video lasts as long as its last action, of the
commonest verbs and nouns and of some that are in the published lists of tail classes.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from vidistill.core.errors import DataError
from vidistill.core.seeds import digest, generator
from vidistill.data.formats.base import csv_rows, need_file
from vidistill.data.formats.epic_rows import EpicRow, listed, read_rows

SOURCE = "EPIC_100_validation.csv"
"""The published list that rows are taken from."""
SECONDS = 60.0
"""Actions end before."""
SHORTEST, LONGEST = 0.8, 4.0
TAIL = 1
"""How many of the verbs, and of the nouns, are of the tail."""
UNEVEN = 1.5
"""How much commoner than their mean a verb or noun may be."""
TESTED = 0.12
"""Part of the videos whose actions test, besides all of the unseen participants."""
UNSEEN = ("P18", "P32")
COPIED = (
    *(f"EPIC_100_{head}_classes.csv" for head in ("verb", "noun")),
    *(f"EPIC_100_tail_{head}s.csv" for head in ("verb", "noun")),
    "EPIC_100_unseen_participant_ids_validation.csv",
)
HEADER = (
    *("narration_id", "participant_id", "video_id", "narration_timestamp", "start_timestamp", "stop_timestamp"),
    *("start_frame", "stop_frame", "narration", "verb", "verb_class", "noun", "noun_class", "all_nouns"),
    "all_noun_classes",
)
VERBS = ("take", "put", "wash", "open", "close", "shake", "knock", "turn", "fold", "peel", "sieve", "brush")
NOUNS = ("tap", "spoon", "plate", "cupboard", "knife", "pan", "lid", "bowl", "drawer", "sponge", "glass", "hand")
"""Classes of made-up rows; more than are shown, as in any part of the real set."""


class Story(NamedTuple):
    """What is to be made.

    Attributes:
        actions: in the order of videos and time; those of one video do not overlap.
        files: texts of the lists, by file name.
        verbs: the numbers of the verbs that are shown.
        nouns: the numbers of the nouns that are shown.
    """

    actions: tuple[EpicRow, ...]
    files: Mapping[str, str]
    verbs: tuple[int, ...]
    nouns: tuple[int, ...]


def published_story(folder: Path, clips: int, verbs: int, nouns: int) -> Story:
    """At most `clips` rows of the published lists in `folder`, of so many verbs and nouns.

    Raises:
        DataError: a list is missing or wrong, or no row fits.
    """
    files = {name: need_file(folder / name, "a published list").read_text(encoding="utf-8-sig") for name in COPIED}
    rows = [row for row in read_rows(folder / SOURCE) if row.end <= SECONDS]
    rows = [row for row in rows if SHORTEST <= row.end - row.start <= LONGEST]
    chosen: dict[str, tuple[int, ...]] = {}
    for head, count in (("verb", verbs), ("noun", nouns)):
        tail = {int(cell) for cell in listed(folder / f"EPIC_100_tail_{head}s.csv", "the list of tail classes")}
        chosen[head] = _classes([getattr(row, head) for row in rows], tail, count)
        rows = [row for row in rows if getattr(row, head) in chosen[head]]
    rows = _even(_apart(rows), clips, max(verbs, nouns))
    if not rows:
        raise DataError("no row is of a short action early in its video", where=str(folder / SOURCE))
    header, *cells = csv_rows(folder / SOURCE, "the list of actions")
    named = header.index("narration_id")
    return _story(rows, header, {each[named]: each for each in cells}, files, chosen["verb"], chosen["noun"])


def invented_story(clips: int, verbs: int, nouns: int, seed: int) -> Story:
    """`clips` made-up rows: four actions a video, eight participants, and two that train does not see."""
    random = generator(seed, "synthetic epic", "rows")
    people = (*(f"P{number:02d}" for number in range(1, 9)), *UNSEEN)
    rows: list[EpicRow] = []
    cells: dict[str, list[str]] = {}
    clock = 0.0
    for number in range(clips):
        person = people[number // 4 % len(people)]
        video = f"{person}_{1 + number // (4 * len(people)):02d}"
        clock = (0.0 if number % 4 == 0 else clock) + round(float(random.uniform(0.2, 0.5)), 2)
        start, end = round(clock, 2), round(clock + float(random.uniform(1.2, 2.2)), 2)
        verb, noun, clock = int(random.integers(verbs)), int(random.integers(nouns)), end
        frames = (int(60 * start) + 1, int(60 * end))
        row = EpicRow(f"{video}_{number % 4}", person, video, start, end, *frames, verb, noun)
        rows.append(row)
        cells[row.id] = _cells(row)
    return _story(rows, list(HEADER), cells, _invented_lists(verbs, nouns), range(verbs), range(nouns))


def _cells(row: EpicRow) -> list[str]:
    """A made-up row as the published lists write theirs."""
    verb, noun = VERBS[row.verb], NOUNS[row.noun]
    stamps = [f"00:00:{seconds:05.2f}" for seconds in (row.start, row.start, row.end)]
    frames = [str(row.first), str(row.last)]
    classes = [verb, str(row.verb), noun, str(row.noun), f"['{noun}']", f"[{row.noun}]"]
    return [row.id, row.participant, row.video, *stamps, *frames, f"{verb} {noun}", *classes]


def _invented_lists(verbs: int, nouns: int) -> dict[str, str]:
    files = {COPIED[-1]: "\n".join(("participant_id", *UNSEEN)) + "\n"}
    for head, names, count in (("verb", VERBS, verbs), ("noun", NOUNS, nouns)):
        lines = [f"{number},{name},\"['{name}']\",any" for number, name in enumerate(names)]
        files[f"EPIC_100_{head}_classes.csv"] = "\n".join(("id,key,instances,category", *lines)) + "\n"
        tail = map(str, range(max(count - TAIL, 1), len(names)))
        files[f"EPIC_100_tail_{head}s.csv"] = "\n".join((head, *tail)) + "\n"
    return files


def _classes(numbers: Iterable[int], tail: set[int], count: int) -> tuple[int, ...]:
    """The commonest classes, of which `TAIL` are of the tail, in the order of their numbers."""
    order = [number for number, _ in sorted(Counter(numbers).items(), key=lambda each: (-each[1], each[0]))]
    rare = [number for number in order if number in tail][: min(TAIL, count - 1)]
    return tuple(sorted([number for number in order if number not in tail][: count - len(rare)] + rare))


def _apart(rows: Sequence[EpicRow]) -> list[EpicRow]:
    """Rows in the order of videos and time, without those that begin before an earlier one has ended."""
    kept: list[EpicRow] = []
    for row in sorted(rows, key=lambda row: (row.video, row.start, row.id)):
        if not kept or kept[-1].video != row.video or row.start >= kept[-1].end:
            kept.append(row)
    return kept


def _even(rows: Sequence[EpicRow], clips: int, classes: int) -> list[EpicRow]:
    """At most `clips` of the rows, none of whose verbs or nouns is much commoner than the others."""
    most = max(round(UNEVEN * clips / classes), 1)
    count: Counter[tuple[str, int]] = Counter()
    kept: set[str] = set()
    for row in sorted(rows, key=lambda row: digest("synthetic epic", row.id)):
        classes_of = (("verb", row.verb), ("noun", row.noun))
        if len(kept) < clips and all(count[each] < most for each in classes_of):
            kept.add(row.id)
            count.update(classes_of)
    return [row for row in rows if row.id in kept]


def is_tested(video: str) -> bool:
    """Whether a video's actions are in the list of validation, which tests."""
    drawn = int(digest("synthetic epic", "tests", video)[:8], 16) / 16**8
    return video.partition("_")[0] in UNSEEN or drawn < TESTED


def _story(
    rows: Sequence[EpicRow],
    header: list[str],
    cells: Mapping[str, list[str]],
    files: Mapping[str, str],
    verbs: Iterable[int],
    nouns: Iterable[int],
) -> Story:
    """The story of these rows; `cells` are their lines by id."""
    texts = dict(files)
    for name, wanted in (("train", False), ("validation", True)):
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(cells[row.id] for row in rows if is_tested(row.video) == wanted)
        texts[f"EPIC_100_{name}.csv"] = text.getvalue()
    return Story(tuple(rows), texts, tuple(verbs), tuple(nouns))
