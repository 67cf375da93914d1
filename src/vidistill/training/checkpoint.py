"""Checkpoints of a training: everything the next step depends on, in one file, written beside and renamed.

Loading uses `weights_only=True`, so a checkpoint can hold tensors, numbers, strings and containers of them, no code.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vidistill.core.errors import CheckpointError, StoreError

FORMAT = 1


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state; an interruption leaves either the old file or the new one, never a part."""
    beside = path.with_suffix(".tmp")
    try:
        with beside.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except (OSError, RuntimeError) as error:
        beside.unlink(missing_ok=True)
        raise StoreError(f"cannot write a checkpoint ({error})", where=str(path), todo="Free disk space") from error


def load_state(path: Path) -> dict[str, Any] | None:
    """The state, or None where there is none.

    Raises:
        CheckpointError: the file is not a checkpoint of this format.
    """
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        known = state["format"] == FORMAT
    except Exception as error:
        raise CheckpointError("not a readable checkpoint", where=str(path), todo="Delete it to start over") from error
    if not known:
        raise CheckpointError(f"checkpoint format {state['format']}", where=str(path), todo="Delete it to start over")
    return dict(state)
