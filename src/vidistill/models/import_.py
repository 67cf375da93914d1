"""Published checkpoints to our key names (`vidistill import CHECKPOINT`). No code in a file is ever run."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidistill.core.errors import CheckpointError
from vidistill.models.weights import first_of, read_weights

KeyMap = Mapping[str, str | None] | Callable[[str], str | None]
"""Published key -> our key; None drops a key on purpose. A function may map any key."""

WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that DataParallel and torch.compile put before every key."""

HEAD = "head."
"""First part of the keys of a network's classifiers."""

NESTS = ("state_dict", "model_state_dict", "model", "net", "weights")
"""Entries under which training scripts keep the weights, beside optimizers and epochs."""


def import_checkpoint(path: Path | str, key_map: KeyMap | None = None) -> dict[str, Tensor]:
    """Tensors of a published checkpoint (.pth, .pt, .safetensors) under our names, on the CPU.

    Raises:
        CheckpointError: unreadable, more than tensors in it, or keys that the map does not know.
    """
    state = {strip(key): value for key, value in _read(Path(path)).items()}
    return rename(state, key_map, str(path)) if key_map is not None else state


def strip(key: str) -> str:
    """`key` without the prefixes of wrappers, however deep."""
    while key.startswith(WRAPPERS):
        for wrapper in WRAPPERS:
            key = key.removeprefix(wrapper)
    return key


def rename(state: Mapping[str, Tensor], key_map: KeyMap, where: str | None = None) -> dict[str, Tensor]:
    """`state` under our names; classifiers that were published as convolutions become matrices.

    Raises:
        CheckpointError: keys the map does not know, or two keys with one new name.
    """
    renamed: dict[str, Tensor] = {}
    unknown = [] if callable(key_map) else [key for key in state if key not in key_map]
    if unknown:
        raise CheckpointError(f"{len(unknown)} keys are not in the key map ({first_of(unknown)})", where=where)
    for key, value in state.items():
        new = key_map(key) if callable(key_map) else key_map[key]
        if new is None:
            continue
        if new in renamed:
            raise CheckpointError(f"two keys map to {new!r}, the second is {key!r}", where=where)
        renamed[new] = _as_matrix(value) if new.startswith(HEAD) else value
    return renamed


def _as_matrix(classifier: Tensor) -> Tensor:
    """A classifier (O, I) that was published as a convolution of one sample of clips, (O, I, 1, 1, 1)."""
    return classifier.flatten(1) if classifier.shape[2:] == (1, 1, 1) else classifier


def prefix_map(prefixes: Mapping[str, str | None]) -> Callable[[str], str | None]:
    """A key map by prefixes, longest first: `{"base.": "backbone.trunk.", "fc.": "head.action.", "aux.": None}`.

    Keys without a listed prefix keep their names.
    """
    ordered = sorted(prefixes, key=len, reverse=True)

    def mapped(key: str) -> str | None:
        for prefix in ordered:
            if key.startswith(prefix):
                new = prefixes[prefix]
                return None if new is None else new + key.removeprefix(prefix)
        return key

    return mapped


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return read_weights(path)[0]
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError("no such file", where=str(path)) from None
    except pickle.UnpicklingError:
        raise CheckpointError(
            "holds more than tensors, or is no checkpoint, and is not loaded",
            where=str(path),
            todo="Save its state dict alone, where you trust the file.",
        ) from None
    except (RuntimeError, OSError, EOFError, KeyError, ValueError) as error:
        raise CheckpointError(f"not a readable checkpoint ({error})", where=str(path)) from None
    for nest in NESTS:
        if isinstance(content, Mapping) and isinstance(content.get(nest), Mapping):
            content = content[nest]
            break
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError("holds no state dict", where=str(path))
    others = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(f"holds entries that are no tensors ({first_of(others)})", where=str(path))
    return {str(key): value for key, value in content.items()}
