"""Randomness from counters: the same (seed, what, which) gives the same numbers in any process, in any order.

No worker, step or epoch keeps a random state; whoever needs random numbers names what they are for. That is why
the number of workers changes nothing and why a resumed run draws what the undisturbed run would have drawn.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np


def digest(*parts: Any) -> str:
    """A stable hexadecimal hash (32 digits) of JSON-like values; the same on any machine and Python version."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def generator(*parts: Any) -> np.random.Generator:
    """A NumPy generator that depends on `parts` alone, e.g. `generator(seed, "view", clip_id, number)`."""
    return np.random.Generator(np.random.Philox(key=int(digest(*parts), 16)))


def integer_seed(*parts: Any) -> int:
    """A seed in [0, 2**63) for libraries that take one integer, e.g. `torch.manual_seed`."""
    return int(digest(*parts)[:16], 16) >> 1
