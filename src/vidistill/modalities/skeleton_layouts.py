"""Joint lists: which joint is which, which are joined by bones, which trade places in a mirror."""

from __future__ import annotations

from dataclasses import dataclass, field

from vidistill.core.errors import RecipeError
from vidistill.core.registry import nearest

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Layout:
    """A joint list.

    Attributes:
        joints: names, in the order of the features.
        bones: pairs of joints that a bone joins.
        swaps: left/right pairs.
        root: joints whose mean is the body's centre.
        chords: further lines for joint-line distances, between ends of limbs.
        stored: number of joints of a stored skeleton, where only some are used.
        take: which of the stored joints are used (empty: all).
    """

    joints: tuple[str, ...]
    bones: Pairs
    swaps: Pairs
    root: tuple[int, ...]
    chords: Pairs = ()
    stored: int = 0
    take: tuple[int, ...] = field(default=())

    @property
    def count(self) -> int:
        """Number of joints used."""
        return len(self.joints)

    @property
    def source_count(self) -> int:
        """Number of joints a stored skeleton has."""
        return self.stored or self.count

    @property
    def mirror(self) -> tuple[int, ...]:
        """For each joint, the joint that takes its place in a mirror."""
        order = list(range(self.count))
        for left, right in self.swaps:
            order[left], order[right] = right, left
        return tuple(order)

    @property
    def lines(self) -> Pairs:
        """Bones, then chords."""
        return self.bones + self.chords


def _sided(*names: str) -> tuple[str, ...]:
    return tuple(f"{side}_{name}" for side in ("left", "right") for name in names)


KINECT20 = Layout(
    joints=(
        "head", "neck", "spine", "hip",
        *_sided("shoulder", "elbow", "wrist", "hand"),
        *_sided("hip", "knee", "ankle", "foot"),
    ),
    bones=(
        (0, 1), (1, 2), (2, 3), (1, 4), (4, 5), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (10, 11),
        (3, 12), (12, 13), (13, 14), (14, 15), (3, 16), (16, 17), (17, 18), (18, 19),
    ),
    swaps=((4, 8), (5, 9), (6, 10), (7, 11), (12, 16), (13, 17), (14, 18), (15, 19)),
    root=(3,),
    chords=((7, 11), (15, 19), (0, 7), (0, 11), (7, 15), (11, 19), (3, 7), (3, 11)),
)  # fmt: skip

KINECT25 = Layout(
    joints=(
        "hip", "spine", "neck", "head",
        *_sided("shoulder", "elbow", "wrist", "hand"),
        *_sided("hip", "knee", "ankle", "foot"),
        "shoulders", *_sided("hand_tip", "thumb"),
    ),
    bones=(
        (0, 1), (1, 20), (20, 2), (2, 3), (20, 4), (4, 5), (5, 6), (6, 7), (7, 21), (7, 22),
        (20, 8), (8, 9), (9, 10), (10, 11), (11, 23), (11, 24),
        (0, 12), (12, 13), (13, 14), (14, 15), (0, 16), (16, 17), (17, 18), (18, 19),
    ),
    swaps=((4, 8), (5, 9), (6, 10), (7, 11), (12, 16), (13, 17), (14, 18), (15, 19), (21, 23), (22, 24)),
    root=(0,),
    chords=((7, 11), (15, 19), (3, 7), (3, 11), (7, 15), (11, 19), (0, 7), (0, 11)),
)  # fmt: skip

NTU12 = Layout(
    joints=(
        "hip", "spine", "head", "left_elbow", "left_hand", "right_elbow", "right_hand",
        "left_knee", "left_foot", "right_knee", "right_foot", "shoulders",
    ),
    bones=(
        (2, 11), (1, 11), (0, 1), (3, 11), (3, 4), (5, 11), (5, 6), (0, 7), (7, 8), (0, 9), (9, 10),
    ),
    swaps=((3, 5), (4, 6), (7, 9), (8, 10)),
    root=(0,),
    chords=((4, 11), (6, 11), (0, 8), (0, 10), (4, 6), (8, 10), (4, 8), (6, 10)),
    stored=25,
    take=(0, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 20),
)  # fmt: skip
"""Twelve of Kinect's 25 joints: with two persons the 276, 828 and 836 features that Luo et al. (ECCV 2018) train on.

Their exact joints and lines were never published; these are ours and do not fit published skeleton weights.
"""

JHMDB15 = Layout(
    joints=(
        "neck", "belly", "face", "right_shoulder", "left_shoulder", "right_hip", "left_hip", "right_elbow",
        "left_elbow", "right_knee", "left_knee", "right_wrist", "left_wrist", "right_ankle", "left_ankle",
    ),
    bones=(
        (0, 2), (0, 1), (0, 3), (3, 7), (7, 11), (0, 4), (4, 8), (8, 12),
        (1, 5), (5, 9), (9, 13), (1, 6), (6, 10), (10, 14),
    ),
    swaps=((3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14)),
    root=(1,),
    chords=((11, 12), (13, 14), (2, 11), (2, 12), (11, 13), (12, 14), (1, 11), (1, 12)),
)  # fmt: skip

COCO17 = Layout(
    joints=(
        "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
        "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee",
        "left_ankle", "right_ankle",
    ),
    bones=(
        (0, 1), (0, 2), (1, 3), (2, 4), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (6, 12), (11, 12),
        (11, 13), (13, 15), (12, 14), (14, 16), (0, 5), (0, 6),
    ),
    swaps=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    root=(11, 12),
    chords=((9, 10), (15, 16), (0, 9), (0, 10), (9, 15), (10, 16), (9, 11), (10, 12)),
)  # fmt: skip

CAD15 = Layout(
    joints=(
        "head", "neck", "torso", "left_shoulder", "left_elbow", "right_shoulder", "right_elbow", "left_hip",
        "left_knee", "right_hip", "right_knee", "left_hand", "right_hand", "left_foot", "right_foot",
    ),
    bones=(
        (0, 1), (1, 2), (1, 3), (3, 4), (4, 11), (1, 5), (5, 6), (6, 12),
        (2, 7), (7, 8), (8, 13), (2, 9), (9, 10), (10, 14),
    ),
    swaps=((3, 5), (4, 6), (7, 9), (8, 10), (11, 12), (13, 14)),
    root=(2,),
    chords=((11, 12), (13, 14), (0, 11), (0, 12), (11, 13), (12, 14), (2, 11), (2, 12)),
)  # fmt: skip
"""CAD-60 (Sung et al., ICRA 2012)."""

LAYOUTS: dict[str, Layout] = {
    "kinect20": KINECT20,
    "kinect25": KINECT25,
    "ntu12": NTU12,
    "jhmdb15": JHMDB15,
    "coco17": COCO17,
    "cad15": CAD15,
}
BY_COUNT = {20: "kinect20", 25: "kinect25", 15: "jhmdb15", 17: "coco17"}
BY_COUNT_3D = BY_COUNT | {15: "cad15"}
"""JHMDB's joints are points of the picture: fifteen joints in space are CAD-60's."""


def get_layout(name: str, where: str | None = None) -> Layout:
    """The joint list of that name.

    Raises:
        RecipeError: unknown, or "auto", which only a skeleton can settle.
    """
    if name == "auto":
        raise RecipeError("the joint list 'auto' is not settled yet", where=where, todo="Name it, or use fitted().")
    if name not in LAYOUTS:
        raise RecipeError(f"unknown joint list {name!r}", where=where, todo=nearest(name, [*LAYOUTS, "auto"]))
    return LAYOUTS[name]


def layout_for(joints: int, space: bool = False) -> str:
    """The name of the joint list with that many joints, in space or in the picture."""
    by_count = BY_COUNT_3D if space else BY_COUNT
    if joints not in by_count:
        known = ", ".join(f"{name} ({count})" for count, name in sorted(by_count.items()))
        raise RecipeError(f"no joint list has {joints} joints", todo=f"Known: {known}.")
    return by_count[joints]
