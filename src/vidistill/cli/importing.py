"""`vidistill import`: a published checkpoint becomes weights of one of a recipe's networks."""

from __future__ import annotations

from pathlib import Path

from vidistill.core.errors import CheckpointError, RecipeError
from vidistill.core.recipe import Recipe
from vidistill.core.registry import nearest
from vidistill.models import Network
from vidistill.models.import_ import import_checkpoint, prefix_map
from vidistill.models.published import published_keys
from vidistill.models.weights import misfit, save_weights
from vidistill.stages.run import Run


def convert(
    checkpoint: Path, recipe: Recipe, network: str, to: Path, renames: list[str], published: str | None = None
) -> str:
    """Write `checkpoint` as safetensors for the student or a teacher of a recipe; says what to do with the file.

    Args:
        checkpoint: .pt, .pth or .safetensors.
        recipe: names the network and, by its data, the network's input and classes.
        network: "student" or a teacher's name.
        to: where to write.
        renames: `published-prefix=our-prefix` pairs; an empty right side drops the keys. Heads that are dropped or
            have other classes keep their fresh weights.
        published: instead of `renames`, a system whose key map for this network is used; see `models.published`.

    Raises:
        RecipeError: no such network or system, malformed renames, or renames beside a system.
        CheckpointError: keys or shapes do not fit; the first of them are named.
    """
    sections = {"student": recipe.student, **recipe.teachers}
    if network not in sections:
        raise RecipeError(f"no network {network!r} in the recipe", where="--network", todo=nearest(network, sections))
    if published is not None and renames:
        raise RecipeError("a published system has its own key map", where="--published", todo="Leave out --rename.")
    renamed = prefix_map(parse_renames(renames))
    target = Run(recipe).network(sections[network], 0, network)
    keys = renamed if published is None else published_keys(published, target, "--published")
    tensors = import_checkpoint(checkpoint, keys)
    expected = target.state_dict()
    heads = [key for key in expected if key.startswith("head.")]
    fresh = [k for k in heads if k not in tensors or tensors[k].shape != expected[k].shape]
    given = {
        **{k: v for k, v in tensors.items() if k not in heads or k not in fresh},
        **{k: expected[k] for k in fresh},
    }
    problem = misfit(expected, given)
    if problem:
        raise CheckpointError(
            f"does not fit network {target.name!r}: {problem}",
            where=str(checkpoint),
            todo="Map keys with --rename" if published is None else "Build the network that was published.",
        )
    target.load_state_dict(given)
    save_weights(target, to)
    note = f" ({len(fresh)} head tensors are fresh: train them)" if fresh else ""
    return f"written: {to}{note}; use it as {place_of(network, target, to)}"


def parse_renames(renames: list[str]) -> dict[str, str | None]:
    """`published-prefix=our-prefix` texts as prefixes; an empty right side becomes None.

    Raises:
        RecipeError: a text without "=".
    """
    prefixes: dict[str, str | None] = {}
    for text in renames:
        old, separator, new = text.partition("=")
        if not separator:
            raise RecipeError(f"{text!r} is not published-prefix=our-prefix", where="--rename")
        prefixes[old] = new or None
    return prefixes


def place_of(network: str, target: Network, to: Path) -> str:
    """Where a recipe takes the written file."""
    if network != "student":
        return f"teachers.{network}.checkpoint: {to}"
    if "weights" in target.options:
        return f"student.weights: {to}"
    return f"checkpoint: {to} of a teacher, or encoder.weights: {to} of a detector"
