"""Weights on disk as safetensors: no code in files. Pretrained trunks: see `trunks`; published files: see `import_`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vidistill.core.errors import CheckpointError

SHOWN = 3
COUNTER = ".num_batches_tracked"


def save_weights(network: nn.Module, path: Path | str) -> None:
    """Writes all parameters and buffers as safetensors, beside `path` and renamed; the network's name goes along."""
    path = Path(path)
    tensors = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    beside = path.with_name(path.name + ".tmp")
    save_file(tensors, beside, metadata={"format": "pt", "network": str(getattr(network, "name", ""))})
    os.replace(beside, path)


def read_weights(path: Path | str) -> tuple[dict[str, Tensor], str]:
    """Tensors of a safetensors file on the CPU, and the name of the network they were saved from ("" if unknown).

    Raises:
        CheckpointError: no such file, or no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, (file.metadata() or {}).get("network", "")  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError("no such file", where=str(path)) from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"not a readable safetensors file ({error})", where=str(path)) from None


def load_weights(network: nn.Module, path: Path | str) -> None:
    """Loads what `save_weights` wrote; every key and shape must fit. The network is untouched when one does not.

    Raises:
        CheckpointError: unreadable file, or the first missing, unexpected and misshapen keys.
    """
    tensors, source = read_weights(path)
    name = getattr(network, "name", type(network).__name__)
    problem = misfit(network.state_dict(), tensors)
    if problem:
        origin = f"weights of network {source!r}" if source else "these weights"
        raise CheckpointError(
            f"{origin} do not fit network {name!r}: {problem}",
            where=str(path),
            todo="Build the network that was saved (same name, options, channels and classes).",
        )
    network.load_state_dict(tensors)


def misfit(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """What of `given` does not fit `expected`, in words; empty where all keys and shapes fit.

    Batch normalisation's counter of batches may be missing: files from before PyTorch 0.4.1 have none.
    """
    missing = [key for key in expected if key not in given and not key.endswith(COUNTER)]
    unexpected = [key for key in given if key not in expected]
    misshapen = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in given and given[key].shape != value.shape
    ]
    groups = (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
    return "; ".join(f"{len(keys)} {word} ({first_of(keys)})" for word, keys in groups if keys)


def first_of(keys: list[str]) -> str:
    """The first few of `keys`, for a message."""
    return ", ".join(keys[:SHOWN]) + (", …" if len(keys) > SHOWN else "")
