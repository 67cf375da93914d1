"""What packing makes of a manifest: which dataset of which file each clip becomes, and which of them are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from vidistill.core.errors import DataError
from vidistill.core.seeds import digest
from vidistill.core.types import Clip
from vidistill.data.hdf5_frames import opened
from vidistill.data.hdf5_write import PackOptions, packed_stamps
from vidistill.data.manifest import Manifest, resolve
from vidistill.data.prepare_clip import ModalitySource

Sources = Mapping[str, ModalitySource]
By = Literal["clip", "recording"]


@dataclass(frozen=True)
class Unit:
    """What is made in one go: a clip, and by modality the key and the stamp of what becomes of it.

    `whole`: not a clip of the manifest but a recording, for its sound.
    """

    clip: Clip
    keys: Mapping[str, str]
    stamps: Mapping[str, str]
    whole: bool = False


def recording_of(clip: Clip) -> str:
    """The name of the file (or folder of frames) that a clip's pictures, else its other signals, are from."""
    source = clip.sources.get("rgb") or next(iter(clip.sources.values()), clip.id)
    return PurePosixPath(source.partition("#")[0]).stem


def plan(manifest: Manifest, sources: Sources, options: PackOptions, by: By) -> list[Unit]:
    """What is to be made of each clip, and by recording of each recording's sound.

    Raises:
        DataError: two clips (or recordings) have one key, or one that HDF5 cannot hold; both are named.
    """
    units: list[Unit] = []
    taken: dict[tuple[str, str], tuple[str, str]] = {}
    for listed in manifest.clips:
        clip = _with_sound(manifest.root, listed) if "audio" in sources else listed
        recording = recording_of(clip)
        own = [m for m in sources if sources[m].store and (m in clip.sources or sources[m].derive is not None)]
        if by == "recording" and "audio" in own:
            own.remove("audio")
            whole = Clip(recording, clip.split, {}, {"audio": clip.sources["audio"]})
            if taken.get(("audio", recording)) != (recording, clip.sources["audio"]):
                unit = _unit(manifest.root, whole, {"audio": recording}, sources, options)
                units.append(replace(unit, whole=True))
                _take(taken, "audio", recording, (recording, clip.sources["audio"]))
        key = clip.id if by == "clip" else f"{recording}/{clip.id}"
        for modality in own:
            _take(taken, modality, key, (clip.id, ""))
        if own:
            units.append(_unit(manifest.root, clip, dict.fromkeys(own, key), sources, options))
    _check_groups(taken)
    return units


def _with_sound(root: Path, clip: Clip) -> Clip:
    """The clip, with the video of its pictures as its source of sound where it has none."""
    video = clip.sources.get("rgb", "")
    if "audio" in clip.sources or not video:
        return clip
    path, key = resolve(root, video)
    return clip if key is not None or path.is_dir() else replace(clip, sources={**clip.sources, "audio": video})


def _take(taken: dict[tuple[str, str], tuple[str, str]], modality: str, key: str, who: tuple[str, str]) -> None:
    if any(part in ("", ".") for part in key.split("/")):
        raise DataError(f"{key!r} cannot be a key of an HDF5 file", where=f"clip {who[0]!r}", todo="Rename it")
    if (modality, key) in taken:
        raise DataError(
            f"{key!r} would be two things, of {taken[modality, key]} and {who}", where=modality, todo="Make ids unique"
        )
    taken[modality, key] = who


def _check_groups(taken: Mapping[tuple[str, str], Any]) -> None:
    for modality, key in taken:
        parents = [str(parent) for parent in PurePosixPath(key).parents]
        clash = next((parent for parent in parents if (modality, parent) in taken), None)
        if clash is not None:
            raise DataError(f"{clash!r} is a clip and cannot hold {key!r} too", where=modality, todo="Rename one")


def _unit(root: Path, clip: Clip, keys: Mapping[str, str], sources: Sources, options: PackOptions) -> Unit:
    files = {name: _stat(resolve(root, source)[0]) for name, source in clip.sources.items()}
    made_of = (clip.id, dict(clip.sources), clip.start, clip.end, clip.fps, files, asdict(options))
    stamps = {modality: digest(made_of, key, dict(sources[modality].provenance)) for modality, key in keys.items()}
    return Unit(clip, keys, stamps)


def _stat(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def stamps_of(path: Path) -> dict[str, str]:
    """Key and stamp of the complete datasets of a packed file; none where there is no file.

    Raises:
        DecodeError: no readable HDF5 file.
    """
    if not path.exists():
        return {}
    with opened(path) as file:
        return packed_stamps(file)


def without(unit: Unit, there: Mapping[str, Mapping[str, str]]) -> Unit | None:
    """What is left of a unit to make; None where all is there."""
    keys = {m: key for m, key in unit.keys.items() if there[m].get(key) != unit.stamps[m]}
    return replace(unit, keys=keys, stamps={m: unit.stamps[m] for m in keys}) if keys else None


def packed_manifest(
    manifest: Manifest, folder: Path, units: Sequence[Unit], modalities: Sequence[str], bad: set[str]
) -> Manifest:
    """The packed clips with the packed files as their sources, relative to `folder`.

    A clip's frames begin at its start; where the sound is the whole recording's, its key names the clip's seconds.
    """
    there = {modality: stamps_of(folder / f"{modality}.hdf5") for modality in modalities}
    rates = {modality: rates_of(folder / f"{modality}.hdf5") for modality in modalities}
    keys = {unit.clip.id: dict(unit.keys) for unit in units if not unit.whole}
    clips = []
    for listed in manifest.clips:
        if listed.id in bad:
            continue
        own = {m: key for m, key in keys.get(listed.id, {}).items() if key in there[m]}
        packed = {m: f"{m}.hdf5#{key}" for m, key in own.items()}
        recording = recording_of(listed)
        if "audio" in modalities and "audio" not in packed and recording in there["audio"]:
            packed["audio"] = f"audio.hdf5#{recording}{stretch_text(listed)}"
        if packed:
            fps = next((rates[m][own[m]] for m in ("rgb", "flow") if m in own), listed.fps)
            clips.append(replace(listed, sources=packed, start=0.0, end=None, fps=fps, frames=None, checksum=None))
    return Manifest(folder, tuple(clips))


def stretch_text(clip: Clip) -> str:
    """The seconds of a clip as a key names them; nothing for a whole recording."""
    if clip.start == 0 and clip.end is None:
        return ""
    return f"[{clip.start:.6f}:{'' if clip.end is None else f'{clip.end:.6f}'}]"


def rates_of(path: Path) -> dict[str, float]:
    """Key and samples a second of the complete datasets of a packed file."""
    with opened(path) as file:
        return {key: float(file[key].attrs["rate"]) for key in packed_stamps(file)}
