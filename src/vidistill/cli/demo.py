"""`vidistill demo`: a generated set and the recipe over it."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import yaml

from vidistill.core.progress import console
from vidistill.core.recipe import Recipe, make_recipe
from vidistill.data.synthetic import make_synthetic


def demo_recipe(folder: Path, overrides: list[str] | None) -> Recipe:
    """Generate the clips unless they are there, and return the demo's recipe over them."""
    console.print(f"[bold]clips[/bold] in {folder}")
    root = make_synthetic(folder)
    tree = yaml.safe_load(files("vidistill.cli").joinpath("demo.yaml").read_text(encoding="utf-8"))
    return make_recipe(tree, [f"data.root={json.dumps(str(root))}", *(overrides or [])], where="demo recipe")
