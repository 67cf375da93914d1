"""Frames that teachers said of clips, as the input of a fusion: one tensor for all members, with who was there.

Shapes: L frames, D_m features of member m, M members. A row is (L, sum of D_m + M): the members' frames side by side,
zeros where a member could not see the clip, and one column a member that is 1 where it could.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidistill.core.errors import TeacherError
from vidistill.core.types import Batch
from vidistill.data.batches import Key
from vidistill.teachers.cached import CachedTeacher


@dataclass(frozen=True)
class Member:
    """One modality of a fusion.

    Attributes:
        name: the teacher's.
        width: D_m.
        cache: its stored answers for training views.
        views: distinct training views there are.
        tested: frames (L, D_m) of validation and test clips by store index, under their test view.
    """

    name: str
    width: int
    cache: CachedTeacher
    views: int
    tested: Mapping[int, NDArray[np.float32]]


@dataclass(frozen=True)
class StoredFrames:
    """The members' frames of a clip under a view. `feature` names the feature that holds them."""

    members: Sequence[Member]
    length: int
    feature: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a row."""
        return (self.length, sum(member.width for member in self.members) + len(self.members))

    def row(self, key: Key, present: Sequence[bool], tested: bool) -> Tensor:
        """The row of a clip: of a training view (views come round again), or of its test view.

        Args:
            key: clip and view number.
            present: which members can see the clip.
            tested: the test view is wanted.

        Raises:
            TeacherError: a member has nothing stored of the clip.
        """
        parts = [
            self._frames(member, key, tested) if there else torch.zeros(self.length, member.width)
            for member, there in zip(self.members, present, strict=True)
        ]
        flags = torch.tensor(present, dtype=torch.float32).expand(self.length, -1)
        return torch.cat([*parts, flags], dim=1)

    def _frames(self, member: Member, key: Key, tested: bool) -> Tensor:
        clip, view = key
        if tested:
            if clip not in member.tested:
                raise TeacherError(f"no stored frames of clip {clip}", where=f"teacher {member.name!r}")
            return torch.from_numpy(member.tested[clip])
        one = torch.tensor([clip])
        batch = Batch({}, {}, one, torch.tensor([view % member.views]), {})
        frames: Tensor = member.cache(batch).features[self.feature][0]
        return frames
