"""Who is taught what, when. A curriculum chooses an epoch's clips and weighs labels against distillation per clip."""

from __future__ import annotations

from vidistill.curricula import adaptive, adaptive_released, plain
from vidistill.curricula.base import CURRICULA, Curriculum, build_curriculum, find_curriculum

__all__ = [
    "CURRICULA",
    "Curriculum",
    "adaptive",
    "adaptive_released",
    "build_curriculum",
    "find_curriculum",
    "plain",
]
