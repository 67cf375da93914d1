"""NTU RGB+D: 56,880 trimmed clips of 60 actions by 40 performers, three cameras (Shahroudy et al., CVPR 2016).

Subsets and repeated classes are those of Luo et al., ECCV 2018, arXiv 1712.00108 ("mini-NTU": 33 clips a class).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.types import Clip
from vidistill.data.formats.base import FORMATS, text_lines
from vidistill.data.formats.found import Places, class_labels, find_sources
from vidistill.data.manifest import Manifest

NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})", re.ASCII)
CLASSES, PERFORMERS, CAMERAS = 60, 40, 3
TRAIN_PERFORMERS = frozenset({1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38})
TRAIN_CAMERAS = frozenset({2, 3})
RATE = 30.0
REPEATED = {
    55: (slice(None, None, 7),),
    59: (slice(None), slice(None, None, 3)),
    60: (slice(None), slice(None, None, 2), slice(1, None, 3)),
}
"""Two-person actions and the clips of them that `oversampled` adds; skeletons of two persons are often incomplete."""

Protocol = Literal["cross_subject", "cross_view"]


class NtuName(NamedTuple):
    """What a clip's name says; all numbers count from 1."""

    setup: int
    camera: int
    performer: int
    repetition: int
    action: int


def parse_name(name: str, where: str | None = None) -> NtuName:
    """A name such as `S001C002P003R002A013`.

    Raises:
        DataError: not such a name, or of an action, performer or camera that NTU RGB+D does not have.
    """
    match = NAME.fullmatch(name)
    if match is None:
        raise DataError(f"{name!r} is not a clip's name", where=where, todo="Names are like S001C002P003R002A013")
    parsed = NtuName(*map(int, match.groups()))
    for what, number, most in (
        ("action", parsed.action, CLASSES),
        ("performer", parsed.performer, PERFORMERS),
        ("camera", parsed.camera, CAMERAS),
    ):
        if not 1 <= number <= most:
            todo = f"NTU RGB+D has {most}; keep clips of NTU RGB+D 120 in another folder"
            raise DataError(f"{name!r} is of {what} {number}", where=where, todo=todo)
    return parsed


def trains(name: NtuName, protocol: Protocol) -> bool:
    """Whether a clip trains: by its performer (cross_subject) or its camera (cross_view); else it tests."""
    return name.performer in TRAIN_PERFORMERS if protocol == "cross_subject" else name.camera in TRAIN_CAMERAS


def subsampled(names: Sequence[str], count: int, variant: Literal["default", "released"] = "default") -> list[str]:
    """`count` names of each class, evenly spread over its sorted names; class by class.

    A class of fewer gives all it has; "released" then repeats names, as the published code does.
    """
    by_class: dict[int, list[str]] = defaultdict(list)
    for name in sorted(names):
        by_class[parse_name(name).action].append(name)
    chosen = []
    for _, members in sorted(by_class.items()):
        wanted = count if variant == "released" else min(count, len(members))
        chosen += [members[place] for place in np.linspace(0, len(members) - 1, wanted).astype(int)]
    return chosen


def oversampled(names: Sequence[str]) -> list[str]:
    """The names, sorted, then again some of the two-person classes A055, A059 and A060 (see `REPEATED`)."""
    names = sorted(names)
    result = list(names)
    for action, parts in REPEATED.items():
        members = [name for name in names if parse_name(name).action == action]
        result += [name for part in parts for name in members[part]]
    return result


def _places(features: str) -> Places:
    """The raw folders as they are published, then those of Luo et al."""
    return {
        "rgb": (("nturgb+d_rgb", "_rgb.avi"), ("rgb", "")),
        "flow": (("oflow", ""),),
        "depth": (("nturgb+d_depth", ""), ("nturgb+d_depth_masked", ""), ("depth", "")),
        "skeleton": (("nturgb+d_skeletons", ".skeleton"), (f"skeleton/{features}", ".npy")),
    }


def _missing(root: Path, given: str | None) -> set[str]:
    """Names of a list of clips without a usable skeleton; lines before the first name are its heading."""
    if given is None:
        return set()
    path = root / given
    names: set[str] = set()
    for number, line in enumerate(text_lines(path, "the list of missing skeletons"), start=1):
        stem = line.removesuffix(".skeleton")
        if NAME.fullmatch(stem):
            names.add(stem)
        elif names:
            raise DataError(f"{line[:60]!r} is not a clip's name", where=f"{path}: line {number}")
    if not names:
        raise DataError("names no clip", where=str(path))
    return names


def _selected(
    names: Sequence[str], split: str, subsample: int, oversample: bool, variant: Literal["default", "released"]
) -> list[str]:
    """The names of one split that are used, in order, with repeats."""
    if subsample and (split == "train" or variant == "released"):
        return subsampled(names, subsample, variant)
    return oversampled(names) if oversample and split == "train" else list(names)


@FORMATS.register("ntu_rgbd")
def read_ntu_rgbd(
    root: Path,
    *,
    protocol: Protocol = "cross_subject",
    subsample: int = 0,
    oversample: bool = False,
    variant: Literal["default", "released"] = "default",
    missing_skeletons: str | None = None,
    class_names: str | None = None,
    features: Literal["jjd", "jjv", "jld"] = "jjd",
) -> Manifest:
    """NTU RGB+D as published, or as the folders of Luo et al.

    As published: `nturgb+d_rgb/<clip>_rgb.avi`, `nturgb+d_skeletons/<clip>.skeleton`, and folders of 16-bit images
    `nturgb+d_depth/<clip>/` (or `nturgb+d_depth_masked`). Of Luo et al.: folders of frames `rgb/<clip>/`,
    `oflow/<clip>/`, `depth/<clip>/`, and `skeleton/jjd|jjv|jld/<clip>.npy`, which are features, not joints (prepare
    the skeleton with `features: true`). A clip has the modalities that are there for it. Its group is its performer.

    Args:
        root: folder of these folders.
        protocol: who trains: 20 of the performers, or cameras 2 and 3.
        subsample: clips a class, evenly spread (33: "mini-NTU"); 0: all. Train only.
        oversample: repeat clips of three two-person actions in train, as the published training of skeletons does; a
            repeated clip has `~2`, `~3` after its name. Not with `subsample`.
        variant: "released" applies `subsample` to test too, and repeats clips where a class has fewer.
        missing_skeletons: file of names whose skeletons are missing or defective: these clips lack the skeleton.
        class_names: file of 60 names, one a line; None: A001 to A060.
        features: which features of Luo et al. are the skeleton.

    Raises:
        RecipeError: options that cannot be.
        DataError: no clip, or names that are none.
    """
    if subsample < 0 or (subsample and oversample):
        raise RecipeError("subsample is 0 or more, and goes without oversample", where="data")
    labels = class_labels(root, class_names, [f"A{number:03d}" for number in range(1, CLASSES + 1)])
    found = find_sources(root, _places(features), parse_name)
    for name in _missing(root, missing_skeletons) & found.keys():
        found[name].pop("skeleton", None)
    names = [name for name, sources in found.items() if sources]
    clips = []
    for split, in_train in (("train", True), ("test", False)):
        members = [name for name in names if trains(parse_name(name), protocol) == in_train]
        times: Counter[str] = Counter()
        for name in _selected(members, split, subsample, oversample, variant):
            times[name] += 1
            parsed = parse_name(name)
            clips.append(
                Clip(
                    id=name if times[name] == 1 else f"{name}~{times[name]}",
                    split=split,
                    labels={"action": labels[parsed.action - 1]},
                    sources=found[name],
                    fps=RATE,
                    group=f"P{parsed.performer:03d}",
                )
            )
    return Manifest(root=root, clips=tuple(clips))
