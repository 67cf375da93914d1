"""UTD-MHAD: 861 sequences of 27 actions by 8 subjects, with depth, skeleton and inertial (Chen et al., ICIP 2015)."""

from __future__ import annotations

from pathlib import Path

from vidistill.core.errors import RecipeError
from vidistill.core.types import Clip
from vidistill.data.formats.base import FORMATS, need_folder, table, usable, whole
from vidistill.data.formats.jhmdb import array_names
from vidistill.data.manifest import Manifest

SKELETONS, INERTIAL = "skeleton_T20x3.npz", "inertial_T6.npz"
RATE = 30.0
"""Frames a second of depth and skeleton; the inertial signals have 50 samples a second."""


@FORMATS.register("utd_mhad")
def read_utd_mhad(root: Path, *, train_subjects: tuple[int, ...] = (1, 3, 5, 7)) -> Manifest:
    """UTD-MHAD as `manifest.csv`, `depth/<clip>_depth.mp4` and one `.npz` file each of skeletons and inertial signals.

    Modalities: depth (the luma plane of the video), skeleton (T, 20, 3) metres, inertial (T, 6). The group of a
    clip is its subject, `s1` to `s8`; subjects that do not train test.

    Raises:
        RecipeError: a train subject that nobody is.
        DataError: the list is missing or wrong, or none of its clips is there.
    """
    listing = need_folder(root) / "manifest.csv"
    arrays = {
        "skeleton": (SKELETONS, array_names(root / SKELETONS)),
        "inertial": (INERTIAL, array_names(root / INERTIAL)),
    }
    clips = []
    for number, row in enumerate(table(listing, ("clip", "label", "subject", "T_skel")), start=2):
        where, name = f"{listing}: row {number}", row["clip"]
        subject = whole(row["subject"], "subject", where)
        own = {modality: f"{file}#{name}" for modality, (file, names) in arrays.items() if name in names}
        clips.append(
            Clip(
                id=name,
                split="train" if subject in train_subjects else "test",
                labels={"action": row["label"]},
                sources={"depth": f"depth/{name}_depth.mp4"} | own,
                fps=RATE,
                frames=whole(row["T_skel"], "T_skel", where),
                group=f"s{subject}",
            )
        )
    nobody = sorted({f"s{subject}" for subject in train_subjects} - {str(clip.group) for clip in clips})
    if nobody:
        raise RecipeError(f"train_subjects names {nobody[0]}, who is in no clip", where=str(listing))
    return usable(root, clips, "depth")
