"""Stage `distil`: for every seed the student alone and the student distilled, on the same views, order and budget."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn

from vidistill.methods.base import Method, MethodContext, build_method
from vidistill.models import Network
from vidistill.stages.networks import is_trained, load_trained, train_network
from vidistill.stages.run import Run
from vidistill.stages.teachers import bind_teachers, frozen_method, teacher_hash, validation_accuracy
from vidistill.teachers.group import Teachers


def student_key(run: Run, seed: int) -> dict[str, Any]:
    """What a student alone depends on."""
    section = run.recipe.student
    return {**run.key_of(section, run.recipe.schedule_of(section)), "seed": seed, "role": "student"}


def distilled_key(run: Run, seed: int) -> dict[str, Any]:
    """What a distilled student depends on: the student, its teachers' weights, and how it is taught."""
    recipe = run.recipe
    weights = {name: teacher_hash(run, name) for name in recipe.teachers}
    return {
        **student_key(run, seed),
        "teachers": weights,
        "inputs": {name: run.describe_input(section.input) for name, section in recipe.teachers.items()},
        "method": recipe.method.model_dump(mode="json"),
        "ensemble": recipe.ensemble.key(),
        "curriculum": recipe.curriculum.model_dump(mode="json"),
        "cached": recipe.cache.enabled,
    }


def train_students(run: Run) -> None:
    """Train what is not trained yet: the student alone, distilled, and distilled in the recipe's other ways."""
    for seed in run.recipe.seeds:
        train_network(run, f"alone-seed{seed}", run.recipe.student, seed, student_key(run, seed))
    if run.recipe.teachers:
        for role, variant in ways(run).items():
            train_distilled(variant, role)


def ways(run: Run) -> dict[str, Run]:
    """All ways to distil, by role: "distilled" is the recipe's own, the others are its variants."""
    return {"distilled": run, **{name: run.variant(name) for name in run.recipe.variants}}


def train_distilled(run: Run, role: str) -> None:
    """Train the students of one way to distil."""
    recipe = run.recipe
    missing = [s for s in recipe.seeds if not is_trained(run, f"{role}-seed{s}", distilled_key(run, s))]
    if not missing:
        return
    shapes = {name: load_trained(run, f"teacher-{name}", section) for name, section in recipe.teachers.items()}
    features = features_wanted(run, shapes)
    teachers, live_inputs = bind_teachers(run, features)
    for seed in missing:
        network = run.network(recipe.student, seed, "student")
        method = make_method(run, network, shapes, teachers)
        train_network(
            run,
            f"{role}-seed{seed}",
            recipe.student,
            seed,
            distilled_key(run, seed),
            network=network,
            method=method,
            label_weight=recipe.method.label_weight,
            teachers=teachers.dropping(recipe.ensemble.dropout, seed, run.shown_views),
            live_inputs=live_inputs,
        )


def make_method(run: Run, student: Network, networks: dict[str, Network], teachers: Teachers | None) -> Method:
    """The recipe's method between a student and its teachers. Its own parameters follow the student's seed."""

    def part(teacher: str, name: str) -> nn.Module:
        if name == "method":
            return frozen_method(run, teacher, networks[teacher], trained=teachers is not None)
        if teachers is None:
            return networks[teacher].get_submodule(name)
        return teachers.members[teacher].part(name)

    context = MethodContext(
        student_dim=student.embedding_dim,
        teacher_dims={name: network.embedding_dim for name, network in networks.items()},
        classes=run.task.classes,
        parts=part,
        teacher_inputs={name: section.input for name, section in run.recipe.teachers.items()},
        student_shapes=student.feature_shapes(),
        teacher_shapes={name: network.feature_shapes() for name, network in networks.items()},
        teacher_accuracy=validation_accuracy(run) if teachers is not None else dict.fromkeys(networks, 1.0),
        learner=lambda teacher: copy.deepcopy(networks[teacher]).requires_grad_(True).train(),
    )
    section = run.recipe.method
    return build_method(section.name, context, section.options, where="method")


def check_methods(run: Run) -> None:
    """Refuse a method that asks for a teacher, head or feature that does not exist, before anything is trained."""
    if run.recipe.teachers:
        networks = {name: run.network(section, 0, f"teachers.{name}") for name, section in run.recipe.teachers.items()}
        for variant in ways(run).values():
            features_wanted(variant, networks)


def features_wanted(run: Run, networks: dict[str, Network]) -> Mapping[str, tuple[str, ...]]:
    """Names of the teachers' features that the method asks for."""
    student = run.network(run.recipe.student, 0, "student")
    return make_method(run, student, networks, None).teacher_features
