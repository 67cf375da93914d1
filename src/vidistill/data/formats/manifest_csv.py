"""The project's own manifest: a CSV file, or a folder that holds `manifest.csv`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vidistill.core.types import Clip
from vidistill.data.formats.base import FORMATS, listed_files, need_file
from vidistill.data.manifest import Manifest, Problem, read_manifest, resolve


@FORMATS.register("manifest")
def read_csv(root: Path) -> Manifest:
    """A manifest as `vidistill.data.manifest` describes it, checked against the files that are there.

    A clip of which a listed source is missing becomes a problem; an empty cell only says that the clip lacks the
    modality.

    Raises:
        DataError: the file is missing, or its columns or cells are wrong.
    """
    path = root if root.suffix.lower() == ".csv" else root / "manifest.csv"
    manifest = read_manifest(need_file(path, "the manifest"))
    there = listed_files(manifest.root)
    kept: list[Clip] = []
    problems: list[Problem] = []
    for clip in manifest.clips:
        absent = [source for source in clip.sources.values() if not _exists(manifest.root, source, there)]
        if not clip.sources:
            problems.append(Problem(clip.id, "missing", "the clip has no source in any path column"))
        elif absent:
            problems.append(Problem(clip.id, "missing", f"{absent[0]} is listed but not in {manifest.root}"))
        else:
            kept.append(clip)
    return replace(manifest, clips=tuple(kept), problems=tuple(problems))


def _exists(root: Path, source: str, there: set[str]) -> bool:
    """Whether the file, or the folder of images, that a source names is there."""
    path = resolve(root, source)[0]
    return path.relative_to(root).as_posix() in there or path.is_dir()
