"""Accuracy of an exported clip part over episodes, so that its int8 form is judged as the network itself was."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from vidistill.data.episodes import Episodes
from vidistill.models.episode_network import EpisodeNetwork
from vidistill.tasks.episode_metrics import episode_accuracies
from vidistill.training.evaluate_episodes import compare_projected


def episode_top1(
    network: EpisodeNetwork,
    kept: Mapping[str, NDArray[np.float32]],
    clips: NDArray[np.int64],
    episodes: Episodes,
) -> float:
    """Mean accuracy over episodes; NaN without any.

    Args:
        network: its head compares; of its backbone nothing is used.
        kept: what a form of the clip part gives for N clips, by output `<stream>_<number>`.
        clips: their store indices (N,), increasing.
        episodes: what is drawn of them.
    """
    if not len(episodes):
        return float("nan")
    numbers = range(len(kept) // len(network.streams))
    projected = [tuple(torch.from_numpy(kept[f"{name}_{number}"]) for number in numbers) for name in network.streams]
    with torch.inference_mode():
        logits = compare_projected(network.head, projected, clips, episodes).numpy()
    return float(episode_accuracies(logits, episodes.query_labels).mean())
