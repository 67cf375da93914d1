"""What can be known wrong about a recipe before any clip is read: names and options of all its parts."""

from __future__ import annotations

from typing import Any

from vidistill.core.errors import RecipeError
from vidistill.core.recipe import MethodSection, Recipe, Teacher, Variant
from vidistill.core.registry import Registry, check_options
from vidistill.curricula import find_curriculum
from vidistill.data.formats import FORMATS
from vidistill.data.streams import StreamPlan
from vidistill.data.views import ViewPolicy
from vidistill.methods.base import METHODS
from vidistill.modalities import MODALITIES
from vidistill.models import NETWORKS
from vidistill.models.fusion import FUSIONS
from vidistill.tasks import TASKS


def check_recipe(recipe: Recipe) -> None:
    """Look up every part and check its options.

    Raises:
        RecipeError: the first misspelt name, or all wrong options of the first part that has any.
    """
    reader = FORMATS.get(recipe.data.format, where="data.format")
    check_options(reader, recipe.data.options, "data", skip=1)
    for name, section in recipe.modalities.items():
        if section.of:
            continue
        modality = MODALITIES.get(section.modality or name, where=f"modalities.{name}")
        check_options(modality, section.options, f"modalities.{name}")
    for name, options in recipe.prepare.sources.items():
        modality = MODALITIES.get(name, where="prepare.sources")
        known = {key: value for key, value in options.items() if key != "derive"}
        check_options(modality.Source, known, f"prepare.sources.{name}")
    ViewPolicy(**check_options(ViewPolicy, recipe.views, "views"))
    networks = {"student": recipe.student, **{f"teachers.{name}": t for name, t in recipe.teachers.items()}}
    for place, network in networks.items():
        if isinstance(network, Teacher) and network.of:
            FUSIONS.get(network.network, where=f"{place}.network")
            continue
        builder = NETWORKS.get(network.network, where=f"{place}.network")
        check_options(builder, network.options, place, skip=2)
    for name, teacher in recipe.teachers.items():
        if teacher.checkpoint is not None and not teacher.checkpoint.is_file():
            raise RecipeError(f"no such file: {teacher.checkpoint}", where=f"teachers.{name}.checkpoint")
        _check_part(METHODS, teacher.method, f"teachers.{name}.method", 1)
    ways: dict[str, Recipe | Variant] = {"": recipe, **{f"variants.{n}.": v for n, v in recipe.variants.items()}}
    for place, way in ways.items():
        _check_part(METHODS, way.method, f"{place}method", 1)
        if way.curriculum is not None:
            find_curriculum(way.curriculum.name, way.curriculum.options, f"{place}curriculum")
    task = TASKS.get(recipe.task.name, "task")
    check_options(task, recipe.task.options, "task", skip=1)
    if recipe.data.streams is not None:
        check_options(StreamPlan, recipe.data.streams, "data.streams")


def _check_part(registry: Registry[Any], section: MethodSection | None, where: str, skip: int) -> None:
    """A method of the recipe, where there is one, exists and has these options."""
    if section is not None:
        check_options(registry.get(section.name, where), section.options, where, skip=skip)
