"""A validation part out of the train part: deterministic, in proportion to the classes, whole groups where it can."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.registry import nearest
from vidistill.core.seeds import digest
from vidistill.core.types import Clip

if TYPE_CHECKING:
    from vidistill.data.manifest import Manifest

MIN_GROUPS = 10
"""With fewer train groups than this, carving whole groups would give a validation part unlike the train part."""


def _units(clips: Iterable[Clip], head: str, by: str, seed: int) -> list[tuple[list[str], Counter[str]]]:
    """Clips that move together (ids, clips by class), in an order that depends on the seed and the names alone."""
    members: dict[tuple[str, str], list[Clip]] = defaultdict(list)
    for clip in clips:
        key = ("clip", clip.id) if by == "clip" or clip.group is None else ("group", clip.group)
        members[key].append(clip)
    ordered = sorted(members, key=lambda key: digest(seed, "validation", *key))
    return [([c.id for c in members[key]], _classes(members[key], head)) for key in ordered]


def _classes(clips: list[Clip], head: str) -> Counter[str]:
    """How many clips or, of untrimmed ones, segments each class has."""
    count: Counter[str] = Counter()
    for clip in clips:
        segments = clip.segments.get(head)
        count.update([clip.labels.get(head, "")] if segments is None else [s.label for s in segments])
    return count


def _choose(units: list[tuple[list[str], Counter[str]]], fraction: float) -> set[str]:
    """Ids to move: a unit is taken where it brings the classes nearer to their targets and empties none of them."""
    total: Counter[str] = sum((count for _, count in units), Counter())
    target = {label: max(1, round(fraction * count)) for label, count in total.items()}
    taken: Counter[str] = Counter()
    chosen: set[str] = set()
    for ids, count in units:
        before = sum(abs(target[label] - taken[label]) for label in count)
        after = sum(abs(target[label] - taken[label] - number) for label, number in count.items())
        leaves_some = all(total[label] - taken[label] - number >= 1 for label, number in count.items())
        if after < before and leaves_some:
            taken.update(count)
            chosen.update(ids)
    return chosen


def carve_validation(manifest: Manifest, fraction: float, seed: int, by: str = "auto") -> Manifest:
    """Move about `fraction` of the train clips to "val", unless the manifest has validation clips already.

    Classes of the first head keep their proportions (a class of two clips or more gives at least one where groups
    allow it), and no class of train is emptied. The choice depends on the seed and the ids or groups alone.

    Args:
        manifest: the clips.
        fraction: of the train clips, in [0, 1); 0 moves none.
        seed: any integer.
        by: "clip", "group" (groups move whole), or "auto": groups where train has at least `MIN_GROUPS`, else clips.

    Raises:
        RecipeError: `fraction` or `by` is not one of the above.
        DataError: no group can move without emptying a class of train.
    """
    if not 0.0 <= fraction < 1.0:
        raise RecipeError(f"the validation fraction is {fraction}; it must be in [0, 1)")
    if by not in ("auto", "clip", "group"):
        raise RecipeError(f"validation by {by!r} is unknown", todo=nearest(by, ("auto", "clip", "group")))
    train = manifest.split("train")
    if manifest.split("val") or not train or fraction == 0.0:
        return manifest
    groups = {clip.group for clip in train if clip.group is not None}
    unit = by if by != "auto" else "group" if len(groups) >= MIN_GROUPS else "clip"
    chosen = _choose(_units(train, manifest.heads[0] if manifest.heads else "", unit, seed), fraction)
    if not chosen and by == "auto":
        chosen = _choose(_units(train, manifest.heads[0] if manifest.heads else "", "clip", seed), fraction)
    if not chosen and by == "group":
        raise DataError("no group can become validation without emptying a class of train", todo="Carve by clip")
    moved = (
        replace(clip, split="val") if clip.split == "train" and clip.id in chosen else clip for clip in manifest.clips
    )
    return replace(manifest, clips=tuple(moved))
