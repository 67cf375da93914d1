"""Who is heard while something learns to do without: modalities of a student, teachers of an ensemble.

Compare KARMMA (Knowledge distillation for Action Recognition with Missing Modalities, 2025), whose students learn from
several modalities with modality dropout. Of M members, for each clip:

    x[m]    = uniform in [0, 1)
    kept[m] = present[m] and ( x[m] >= p  or  x[m] is the largest of those present )

so that one of M is left out with probability p - p^M / M, and never all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def heard(numbers: Tensor, present: Tensor, probability: float) -> Tensor:
    """Who is kept (B, M, bool) of those present (B, M, bool), by uniform numbers (B, M) in [0, 1)."""
    drawn = torch.where(present, numbers, -1.0)
    largest = drawn == drawn.amax(1, keepdim=True)
    return present & ((drawn >= probability) | largest)
