"""A teacher that is computed: a frozen network over one input."""

from __future__ import annotations

import torch
from torch import nn

from vidistill.core.errors import TeacherError
from vidistill.core.types import Batch, Outputs


class LiveTeacher:
    """A trained network that only answers: eval mode, no gradients, no updates of its statistics.

    It is no `nn.Module`, so that neither an optimizer, nor data-parallel wrapping, nor `.train()` of whatever holds it
    can reach the network.
    """

    def __init__(self, name: str, network: nn.Module, input_name: str, features: tuple[str, ...] = ()) -> None:
        self.name, self.input_name, self.features = name, input_name, features
        self.network = network.eval().requires_grad_(False)

    def __call__(self, batch: Batch) -> Outputs:
        """Answers (B, ...) for the batch; rows of clips without the teacher's input are meaningless (see `present`)."""
        if self.network.training:
            raise TeacherError(f"teacher {self.name!r} is in training mode", todo="Leave frozen networks alone")
        inputs = batch.inputs.get(self.input_name)
        if inputs is None:
            raise TeacherError(f"the batch has no input {self.input_name!r}", where=f"teacher {self.name!r}")
        with torch.inference_mode():
            outputs: Outputs = self.network(inputs, features=self.features)
        return outputs

    def part(self, name: str) -> nn.Module:
        """A frozen part of the network by name; gradient flows through it, never into it."""
        part = getattr(self.network, name, None)
        if not isinstance(part, nn.Module):
            raise TeacherError(f"no part {name!r}", where=f"teacher {self.name!r}")
        return part
