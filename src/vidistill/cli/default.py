"""The recipe of `vidistill run --data FOLDER`: sized so that about a thousand short clips take minutes on two cores."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any


def default_recipe(folder: Path) -> dict[str, Any]:
    """RGB student; a flow teacher and an RGB teacher that sees more pixels."""
    return {
        "name": run_name(folder),
        "data": {"format": "folder", "root": str(folder)},
        "prepare": {"sources": {"rgb": {"short_side": 72}, "flow": {"algorithm": "dis"}}},
        "modalities": {
            "rgb": {"size": 48},
            "rgb_large": {"modality": "rgb", "size": 64},
            "flow": {"size": 48},
        },
        "views": {"frames": 8, "flip": 0.5, "colour": 0.2},
        "teachers": {
            "flow": {"input": "flow", "network": "compact3d", "width": 16},
            "rgb": {"input": "rgb_large", "network": "compact3d", "width": 16},
        },
        "ensemble": {"weights": "held_out"},
        "student": {"input": "rgb", "network": "compact3d", "width": 12},
        "method": {
            "name": "sum",
            "methods": [
                {"name": "kd", "temperature": 3.0},
                {"name": "feature_mse", "normalise": True, "weight": 2.0},
            ],
        },
        "task": {"label_smoothing": 0.1},
        "schedule": {"epochs": 20, "batch_size": 16, "learning_rate": 0.004, "warmup": 0.15, "views": 20},
    }


def run_name(folder: Path) -> str:
    """A folder name for the run, from the data folder's last two names."""
    parts = [part for part in folder.resolve().parts[-2:] if part != "/"]
    return re.sub(r"[^\w.-]+", "_", "-".join(parts)).strip("._") or "run"
