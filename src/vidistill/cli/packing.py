"""`vidistill pack`: a recipe's clips as the published HDF5 files."""

from __future__ import annotations

import functools
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from vidistill.core.errors import RecipeError, StoreError
from vidistill.core.progress import progress
from vidistill.core.recipe import Recipe
from vidistill.core.registry import check_options, nearest
from vidistill.data.formats import FORMATS
from vidistill.data.hdf5_pack import Packed, pack
from vidistill.data.hdf5_plan import By
from vidistill.data.hdf5_write import PACKED, PackOptions, verify_pack
from vidistill.data.manifest import Manifest
from vidistill.data.prepare_clip import ModalitySource
from vidistill.modalities import SignalAbsent, get_modality

SHOWN = 5
WAYS: tuple[By, ...] = ("clip", "recording")


def pack_recipe(
    recipe: Recipe,
    folder: Path,
    modalities: list[str],
    options: PackOptions,
    *,
    by: str = "clip",
    short_side: int = 256,
    sound_rate: int = 24_000,
) -> Packed:
    """Pack the clips that a recipe's `data` names; `prepare.sources` says how flow is computed, with how many workers.

    Args:
        recipe: of its parts, `data` and `prepare` are used.
        folder: where the files go.
        modalities: of rgb, flow and audio.
        options: how frames are encoded.
        by: "clip" or "recording"; see `data.hdf5_pack`.
        short_side: pixels of pictures and flow; smaller videos stay as they are.
        sound_rate: samples a second.

    Raises:
        RecipeError: an unknown modality, format or option.
        DataError: too many unusable clips.
    """
    for name in modalities:
        if name not in PACKED:
            raise RecipeError(f"no file for {name!r}", where="--modality", todo=nearest(name, PACKED))
    way = next((way for way in WAYS if way == by), None)
    if way is None:
        raise RecipeError(f"{by!r} is not a way to pack", where="--by", todo=nearest(by, WAYS))
    given: dict[str, dict[str, Any]] = {
        "rgb": {"short_side": short_side},
        "flow": {"short_side": short_side},
        "audio": {"rate": sound_rate},
    }
    names = dict.fromkeys([*modalities, *(["rgb"] if "flow" in modalities else [])])
    sources = {name: source_of(recipe, name, given[name], store=name in modalities) for name in names}
    manifest = listed_clips(recipe)
    with progress("pack", len(manifest.clips)) as counter:
        return pack(
            manifest,
            folder,
            sources,
            options,
            by=way,
            workers=recipe.prepare.workers,
            skip_limit=recipe.prepare.skip_limit,
            progress=lambda done, total: counter.advance(done - counter.done),
        )


def listed_clips(recipe: Recipe) -> Manifest:
    """The clips of a recipe's data, as listed: packing asks for no labels and carves no parts.

    Raises:
        RecipeError: no such folder or format.
    """
    data = recipe.data
    reader = FORMATS.get(data.format, where="data.format")
    if not data.root.exists():
        raise RecipeError(f"no such folder: {data.root}", where="data.root", todo="Set data.root=/path/to/the/set")
    return reader(data.root, **check_options(reader, data.options, "data", skip=1))


def source_of(recipe: Recipe, name: str, given: dict[str, Any], *, store: bool) -> ModalitySource:
    """How a modality is loaded or derived: the recipe's options, with `given` before them.

    Raises:
        RecipeError: an unknown option.
    """
    modality = get_modality(name)
    section = dict(recipe.prepare.sources.get(name, {}))
    derived = section.pop("derive", modality.derived_unasked)
    kind = modality.Source
    options = kind(**check_options(kind, section, f"prepare.sources.{name}"))
    options = replace(options, **{key: value for key, value in given.items() if key in {f.name for f in fields(kind)}})
    derive = functools.partial(modality.derive, options=options) if derived and modality.derivable else None
    load = functools.partial(modality.load, options=options)
    return ModalitySource(name, load, derive, options.provenance(), store, absent=(SignalAbsent,))


def describe(packed: Packed) -> str:
    """What was packed, in lines: counts, files with their sizes, and the clips that were left out."""
    lines = [f"{len(packed.manifest.clips)} clips are packed: {packed.new} new datasets, {packed.kept} kept"]
    lines += [f"written: {path} ({path.stat().st_size / 1e6:.1f} MB)" for path in packed.files.values()]
    lines += [f"written: {packed.manifest.root / 'manifest.csv'}"]
    return "\n".join([*lines, *(f"  {each.clip}: {each.kind}: {each.message}" for each in packed.problems)])


def verify_folder(folder: Path) -> str:
    """Reads packed files to their ends; says that all is well.

    Raises:
        RecipeError: the folder holds no packed file.
        StoreError: datasets are not as they were written; the first are named.
    """
    files = [folder / f"{name}.hdf5" for name in PACKED if (folder / f"{name}.hdf5").is_file()]
    if not files:
        raise RecipeError("no packed file is there", where=str(folder), todo="Give the folder that pack wrote")
    problems = [problem for path in files for problem in verify_pack(path)]
    if problems:
        first = "; ".join(f"{each.clip!r}: {each.message}" for each in problems[:SHOWN])
        raise StoreError(
            f"{len(problems)} datasets are not as they were written: {first}",
            where=str(folder),
            todo="Remove these files and pack again",
        )
    return f"{', '.join(path.name for path in files)}: every dataset is as it was written"
