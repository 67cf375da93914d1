"""What a few-shot run is tested by, and what becomes of it by class and by form of the student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidistill.core.errors import RecipeError
from vidistill.data.episode_files import write_episodes
from vidistill.data.episodes import Episodes
from vidistill.stages.networks import seen
from vidistill.stages.run import Run
from vidistill.tasks import Predictions
from vidistill.tasks.episode_metrics import by_episode, class_accuracies
from vidistill.tasks.fewshot import EPISODE, FewShot


def fewshot_task(run: Run) -> FewShot:
    """The run's task.

    Raises:
        RecipeError: it is another than few-shot recognition.
    """
    if not isinstance(run.task, FewShot):
        raise RecipeError(f"{run.task.name} has no episodes", where="task", todo="Set task.name=fewshot")
    return run.task


def students_episodes(run: Run) -> Episodes:
    """The test episodes of the clips that the student can see."""
    return fewshot_task(run).episodes(run.store, "test", seen(run, run.recipe.student.input))


def class_table(run: Run, groups: Mapping[str, Sequence[Predictions]]) -> dict[str, dict[str, dict[str, Any]]]:
    """For the data's head, by test class: accuracy of its queries in all episodes by role, and how many clips they are.

    Args:
        run: of few-shot recognition.
        groups: test predictions by role, one a seed; the mean over seeds is taken.
    """
    task, episodes = fewshot_task(run), students_episodes(run)
    names = run.store.classes[task.head]
    asked = np.unique(episodes.queries)
    clips = np.bincount(run.store.labels(task.head)[asked], minlength=len(names))
    table: dict[str, dict[str, Any]] = {names[n]: {"clips": int(clips[n])} for n in np.flatnonzero(clips)}
    for role, predictions in groups.items():
        each = [
            class_accuracies(
                by_episode(found.logits[EPISODE], found.clip),
                by_episode(found.labels[EPISODE], found.clip),
                episodes.classes,
                len(names),
            )[0]
            for found in predictions
        ]
        means = np.mean(each, 0)
        for number in np.flatnonzero(clips):
            table[names[number]][role] = float(means[number])
    return {task.head: table}


def write_split(run: Run, split: str, path: Path) -> int:
    """Write the episodes by which a split is tested, as `data.episode_files` has them; returns how many.

    Raises:
        RecipeError: the run is not of few-shot recognition, or there is no such split.
        DataError: there are too few classes or clips to draw from.
    """
    task = fewshot_task(run)
    if split not in task.ways:
        raise RecipeError(f"no fixed episodes for {split!r}", where="--split", todo=f"One of: {', '.join(task.ways)}")
    episodes = task.episodes(run.store, split, np.ones(len(run.store), np.bool_))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_episodes(path, episodes, run.store.ids, run.store.classes[task.head])
    return len(episodes)
