"""`FOLDER/<class>/<clip>.mp4`, or `FOLDER/train|val|test/<class>/<clip>.mp4`: the layout that needs no list."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.seeds import digest
from vidistill.core.types import Clip
from vidistill.data.containers import IMAGES, natural_key
from vidistill.data.formats.base import FORMATS, VIDEOS, need_folder
from vidistill.data.manifest import Manifest

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def _inside(folder: Path) -> list[Path]:
    """What is in a folder and not hidden, in natural order."""
    return sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=lambda p: natural_key(p.name))


def _is_clip(path: Path, extensions: tuple[str, ...]) -> bool:
    """A media file, or a folder that holds images directly."""
    if path.is_dir():
        return any(file.suffix.lower() in IMAGES for file in path.iterdir())
    return path.suffix.lower() in extensions


def _clips(root: Path, folder: Path, split: str, extensions: tuple[str, ...]) -> list[Clip]:
    """One clip for each media file (or frame folder) of each class folder."""
    found = []
    for label in (path for path in _inside(folder) if path.is_dir()):
        for path in _inside(label):
            if _is_clip(path, extensions):
                below = path.relative_to(root)
                name = (below if path.is_dir() else below.with_suffix("")).as_posix()
                found.append(Clip(name, split, {"action": label.name}, {"rgb": below.as_posix()}))
    return found


def _apart(clips: list[Clip]) -> list[Clip]:
    """Clips whose names differ only by extension keep it in their ids."""
    count = Counter(clip.id for clip in clips)
    return [clip if count[clip.id] == 1 else replace(clip, id=clip.sources["rgb"]) for clip in clips]


def _divide(clips: list[Clip], fraction: float, seed: int) -> list[Clip]:
    """A test part of every class, by a hash of the clips' ids; classes of one clip stay in train."""
    by_class: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        by_class[clip.labels["action"]].append(clip)
    test: set[str] = set()
    for members in by_class.values():
        ordered = sorted(members, key=lambda clip: digest(seed, "test", clip.id))
        count = min(max(round(fraction * len(ordered)), 1), len(ordered) - 1) if fraction else 0
        test.update(clip.id for clip in ordered[:count])
    return [replace(clip, split="test" if clip.id in test else "train") for clip in clips]


@FORMATS.register("folder")
def read_folder(
    root: Path, *, test_fraction: float = 0.3, seed: int = 0, extensions: tuple[str, ...] = VIDEOS
) -> Manifest:
    """A folder of class folders of videos (or of folders of images).

    Where `root` holds a `train` folder beside `test` or `val`, these are the splits. Otherwise its folders are the
    classes, and `test_fraction` of the clips of each class, chosen by a hash of `seed` and the clip's id, are the
    test split: at least one where a class has two clips.

    Raises:
        RecipeError: `test_fraction` is not in [0, 1).
        DataError: there is no such folder, or not one clip in it.
    """
    if not 0.0 <= test_fraction < 1.0:
        raise RecipeError(f"test_fraction is {test_fraction}; it must be in [0, 1)")
    endings = tuple(f".{extension.lower().lstrip('.')}" for extension in extensions)
    folders = {path.name.lower(): path for path in _inside(need_folder(root)) if path.is_dir()}
    splits = {name: path for name, path in folders.items() if name in SPLIT_NAMES}
    if "train" in splits and len(splits) > 1:
        clips = [clip for name, path in splits.items() for clip in _clips(root, path, SPLIT_NAMES[name], endings)]
        others = [path.name for name, path in folders.items() if name not in splits and _inside(path)]
        stray = [name for name in others if any(_is_clip(path, endings) for path in _inside(root / name))]
        if stray:
            raise DataError(
                f"{stray[0]!r} lies beside the folder 'train'", where=str(root), todo="Move it into a split"
            )
        clips = _apart(clips)
    else:
        clips = _divide(_apart(_clips(root, root, "train", endings)), test_fraction, seed)
    if not clips:
        loose = any(_is_clip(path, endings) for path in _inside(root))
        what = "the clips lie in no class folder" if loose else "the folder holds no clips"
        raise DataError(what, where=str(root), todo="Put them in FOLDER/<class>/<clip>.mp4")
    return Manifest(root=root, clips=tuple(clips))
