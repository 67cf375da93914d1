"""What a survey says of clips, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from vidistill.core.errors import RecipeError
from vidistill.core.types import Loss
from vidistill.training.survey import transfer_loss


def test_difficulty_is_the_weighted_sum_of_the_distillation_terms_of_a_clip() -> None:
    ones = torch.ones(3)
    losses = {
        "kd": Loss(torch.tensor([1.0, 2.0, 3.0]), 0.5),
        "maps": Loss(ones, 2.0),
        "recorded": Loss(100 * ones, 0.0),
        "of the batch": Loss(100 * ones, per_clip=False),
        "label": Loss(100 * ones, distillation=False),
    }
    torch.testing.assert_close(transfer_loss(losses), torch.tensor([2.5, 3.0, 3.5]))


def test_a_method_without_a_distillation_term_a_clip_is_refused() -> None:
    with pytest.raises(RecipeError, match="no distillation term"):
        transfer_loss({"kd": Loss(torch.ones(2), 0.0), "label": Loss(torch.ones(2), distillation=False)})
