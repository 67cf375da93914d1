"""JHMDB: 928 clips of 21 actions, three official splits, 2-D poses (Jhuang et al., ICCV 2013)."""

from __future__ import annotations

import zipfile
from pathlib import Path

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.types import Clip
from vidistill.data.formats.base import FORMATS, need_folder, source_video, table, usable, whole
from vidistill.data.manifest import Manifest

POSES = "jhmdb_pose_world_confident.npz"
RATE = 30.0


def array_names(path: Path) -> set[str]:
    """Keys of an `.npz` file; none where the file is absent.

    Raises:
        DataError: the file is not an `.npz` file.
    """
    if not path.is_file():
        return set()
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"not a readable .npz file ({error})", where=str(path)) from None


@FORMATS.register("jhmdb")
def read_jhmdb(root: Path, *, split: int = 1) -> Manifest:
    """JHMDB as `manifest.csv`, `video/<class>/<clip>.mp4` and, where it is there, the file of poses.

    Modalities: rgb; pose (T, 15, 2) for the clips that have one. The group of a clip is the recording it was cut
    from; the official splits tear none apart.

    Raises:
        RecipeError: `split` is not 1, 2 or 3.
        DataError: the list is missing or wrong, or none of its clips is there.
    """
    if split not in (1, 2, 3):
        raise RecipeError(f"JHMDB has splits 1, 2 and 3, not {split}")
    column = f"split{split}"
    listing = need_folder(root) / "manifest.csv"
    poses = array_names(root / POSES)
    clips = []
    for number, row in enumerate(table(listing, ("video", "label", "frames", column)), start=2):
        where = f"{listing}: row {number}"
        if row[column] not in ("train", "test"):
            raise DataError(f"column {column!r} holds {row[column]!r}", where=where, todo="Use train or test")
        stem, label = Path(row["video"]).stem, row["label"]
        key = f"{label}/{stem}"
        clips.append(
            Clip(
                id=key,
                split=row[column],
                labels={"action": label},
                sources={"rgb": row["video"]} | ({"pose": f"{POSES}#{key}"} if key in poses else {}),
                fps=RATE,
                frames=whole(row["frames"], "frames", where),
                group=f"{label}/{source_video(stem, label)}",
            )
        )
    return usable(root, clips, "rgb")
