"""An input of several modalities: their tensors side by side in one row, with who was there.

A network over several modalities then is one over one input, like every other: it trains, exports and ships alike.

Shapes: part m has shape s_m (without batch) of n_m numbers, there are M parts. A row is (sum of n_m + M,): every part
flattened, zeros where the clip lacks it, and then M numbers, 1 where the part is there and 0 where it is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vidistill.core.errors import ModelError

if TYPE_CHECKING:
    from vidistill.data.batches import Input

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Joint:
    """The encoding of an input of several: `inputs` in the order in which they lie side by side."""

    inputs: tuple[Input, ...]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each part by the name of its input."""
        return {item.name: tuple(item.encoding.shape) for item in self.inputs}

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a row."""
        return (width(self.shapes),)


def width(shapes: Shapes) -> int:
    """Numbers in a row of parts of these shapes."""
    return sum(prod(shape) for shape in shapes.values()) + len(shapes)


def join(tensors: Mapping[str, Tensor | None], shapes: Shapes) -> Tensor:
    """The row (D,) of a clip's parts, None where the clip lacks one; `shapes` gives their order."""
    parts = [torch.zeros(prod(shape)) if tensors[name] is None else tensors[name] for name, shape in shapes.items()]
    flags = torch.tensor([float(tensors[name] is not None) for name in shapes])
    return torch.cat([*(part.flatten() for part in parts if part is not None), flags])


def split(rows: Tensor, shapes: Shapes) -> tuple[dict[str, Tensor], Tensor]:
    """The parts (B, *s_m) by name and which of them are there (B, M, bool), of rows (B, D).

    Raises:
        ModelError: rows of another width.
    """
    if rows.shape[-1] != width(shapes):
        raise ModelError(
            f"rows of {rows.shape[-1]} numbers are not the parts {', '.join(shapes)}, which have {width(shapes)}",
            todo="Make the input of the same modalities, encoded alike.",
        )
    *parts, flags = torch.split(rows, [*(prod(shape) for shape in shapes.values()), len(shapes)], dim=1)
    named = {name: part.reshape(-1, *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
    return named, flags > 0.5
