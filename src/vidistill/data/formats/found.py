"""Data sets without a list of clips: what lies in which folder says which clips have which modality."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vidistill.core.errors import DataError
from vidistill.data.formats.base import need_folder, text_lines

Places = Mapping[str, Sequence[tuple[str, str]]]
"""Where each modality may lie: (folder below the root, ending of a file's name; "" for folders of frames)."""


def find_sources(root: Path, places: Places, check_name: Callable[[str, str], object]) -> dict[str, dict[str, str]]:
    """Sources by clip name and modality, relative to `root`; of each modality the first folder that is there counts.

    `check_name(name, where)` refuses what is no clip's name; hidden entries and other endings are passed over.

    Raises:
        DataError: `root` or all folders are absent, or empty.
    """
    need_folder(root)
    found: dict[str, dict[str, str]] = {}
    for modality, choices in places.items():
        for folder, ending in choices:
            if (root / folder).is_dir():
                for name in _names(root / folder, ending):
                    check_name(name, str(root / folder / (name + ending)))
                    found.setdefault(name, {})[modality] = f"{folder}/{name}{ending}"
                break
    if not found:
        known = ", ".join(sorted({folder for choices in places.values() for folder, _ in choices}))
        raise DataError("no clip is there", where=str(root), todo=f"Looked in the folders {known}")
    return dict(sorted(found.items()))


def _names(folder: Path, ending: str) -> list[str]:
    """Names of the clips in one folder, sorted."""
    with os.scandir(folder) as entries:
        inside = [entry for entry in entries if not entry.name.startswith(".")]
    if ending:
        return sorted(entry.name.removesuffix(ending) for entry in inside if entry.name.endswith(ending))
    return sorted(entry.name for entry in inside if entry.is_dir())


def class_labels(root: Path, given: str | None, default: Sequence[str]) -> Sequence[str]:
    """Names of the classes in order: those of a file of one name a line (below `root` or absolute), else `default`.

    Raises:
        DataError: not as many names as classes, or one of them twice.
    """
    if given is None:
        return default
    path = root / given
    names = text_lines(path, "the list of class names")
    if len(names) != len(default):
        raise DataError(f"{len(names)} class names, but there are {len(default)} classes", where=str(path))
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"the class name {twice!r} is there twice", where=str(path), todo="Make names unique")
    return names
