"""Teachers left out at random while a student learns, so that it stays usable where a modality is missing.

Who is kept is decided as among a student's modalities (`models/modality_dropout.py`), by numbers from (seed, clip,
view, teacher). Those that are kept share the weight as where a modality is absent (`ensemble.present_weights`).

The numbers are a hash, computed where the batch is (no random state, no wait for the host), so that a resumed run
leaves out whom the undisturbed one would have. The hash is SplitMix64's (Steele, Lea, Flood: Fast Splittable
Pseudorandom Number Generators, OOPSLA 2014), in the wrapping arithmetic of int64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vidistill.core.seeds import integer_seed
from vidistill.models.modality_dropout import heard

FIRST, SECOND = 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64)
"""SplitMix64's factors as signed numbers."""
BITS = 24
"""Of a uniform number: as many as float32 tells apart in [0.5, 1)."""


def mixed(values: Tensor) -> Tensor:
    """SplitMix64's hash of int64 values (any shape), read as unsigned; the same shape."""
    values = (values ^ _shifted(values, 30)) * FIRST
    values = (values ^ _shifted(values, 27)) * SECOND
    return values ^ _shifted(values, 31)


def _shifted(values: Tensor, bits: int) -> Tensor:
    """Shifted right with zeros coming in: torch's shift of negative numbers brings ones."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def uniform(keys: Tensor, clip: Tensor, view: Tensor) -> Tensor:
    """Numbers (B, M) in [0, 1), float32, of keys (M,), clips (B,) and views (B,), all int64."""
    found = mixed(mixed(mixed(keys)[None] ^ clip[:, None]) ^ view[:, None])
    return _shifted(found, 64 - BITS).float() / (1 << BITS)


class TeacherDropout:
    """Who is left out of which clip.

    Args:
        probability: p, in [0, 1).
        seed: of the student.
        teachers: names, in the order of the columns.
        views: only views of smaller numbers are shown for learning; of others, surveys', nobody is left out.
    """

    def __init__(self, probability: float, seed: int, teachers: Sequence[str], views: int) -> None:
        self.probability, self.views = probability, views
        self._keys = torch.tensor([integer_seed(seed, "teacher dropout", name) for name in teachers])

    def __call__(self, present: Tensor, clip: Tensor, view: Tensor) -> Tensor:
        """Which teachers are heard: (B, M) bool.

        Args:
            present: (B, M) bool: who can see the clip.
            clip: store indices (B,).
            view: view numbers (B,).
        """
        if self._keys.device != clip.device:
            self._keys = self._keys.to(clip.device)
        kept = heard(uniform(self._keys, clip, view), present, self.probability)
        return kept | (present & (view >= self.views)[:, None])
