from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vidistill.core.errors import TeacherError
from vidistill.core.types import ENSEMBLE, Batch, Outputs
from vidistill.tasks.recognition import Recognition
from vidistill.teachers.audit import agreement, beats_chance, chance, fit_temperatures, require_better_than_chance
from vidistill.teachers.group import Teachers, Weighting
from vidistill.teachers.live import LiveTeacher


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> Outputs:
        embedding = self.body(x)
        return Outputs({"action": self.head(embedding)}, embedding)


def batch(present: list[bool] | None = None) -> Batch:
    seen = torch.tensor(present) if present else torch.ones(5, dtype=torch.bool)
    torch.manual_seed(0)
    return Batch(
        inputs={"a": torch.randn(5, 4), "b": torch.randn(5, 4)},
        labels={"action": torch.tensor([0, 1, 2, 0, 1])},
        clip=torch.arange(5),
        view=torch.zeros(5, dtype=torch.long),
        present={"a": torch.ones(5, dtype=torch.bool), "b": seen},
    )


def teachers(**weighting: Any) -> Teachers:
    torch.manual_seed(1)
    members = {name: LiveTeacher(name, Tiny(), name) for name in ("a", "b")}
    return Teachers(members, Weighting(**weighting), Recognition({"action": 3}))


def test_a_live_teacher_never_changes_and_never_learns() -> None:
    network = Tiny().train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    teacher = LiveTeacher("a", network, "a")
    outputs = teacher(batch())
    assert not outputs.embedding.requires_grad
    assert not any(p.requires_grad for p in network.parameters())
    assert not any(m.training for m in network.modules())
    assert all((before[k] == v).all() for k, v in network.state_dict().items())


def test_a_teacher_put_back_into_training_mode_is_an_error() -> None:
    network = Tiny()
    teacher = LiveTeacher("a", network, "a")
    network.train()
    with pytest.raises(TeacherError, match="training mode"):
        teacher(batch())


def test_gradient_flows_through_a_part_and_not_into_it() -> None:
    part = LiveTeacher("a", Tiny(), "a").part("head")
    embedding = torch.randn(2, 6, requires_grad=True)
    part(embedding).sum().backward()
    assert embedding.grad is not None
    assert all(p.grad is None for p in part.parameters())


def test_the_answers_can_be_differentiated_against() -> None:
    answers = teachers()(batch())
    student = torch.randn(5, 3, requires_grad=True)
    (student - answers[ENSEMBLE].logits["action"]).square().sum().backward()
    assert student.grad is not None


def test_the_uniform_ensemble_is_the_mean_of_logits() -> None:
    answers = teachers()(batch())
    expected = (answers["a"].logits["action"] + answers["b"].logits["action"]) / 2
    torch.testing.assert_close(answers[ENSEMBLE].logits["action"], expected)


def test_a_teacher_without_input_has_no_say_and_the_rest_share_its_weight() -> None:
    present = [True, False, True, False, True]
    group, some = teachers(), batch(present)
    answers = group(some)
    alone = torch.tensor([not seen for seen in present])
    torch.testing.assert_close(answers[ENSEMBLE].logits["action"][alone], answers["a"].logits["action"][alone])
    weights = group.weights(answers)
    assert weights["b"].tolist() == [0.5 if seen else 0.0 for seen in present]
    assert weights["a"].tolist() == [0.5 if seen else 1.0 for seen in present]


def test_calibrated_logits_are_divided_by_their_temperature() -> None:
    plain = teachers()(batch())["a"].logits["action"]
    warm = teachers(temperatures={"a": {"action": 2.0}})(batch())["a"].logits["action"]
    torch.testing.assert_close(warm, plain / 2)


def test_chance_is_the_commonest_class_or_a_guess() -> None:
    assert chance(np.array([0, 0, 0, 1]), np.array([0, 0, 1]), 4) == 0.75
    assert chance(np.array([1, 2, 3, 1]), np.array([0, 0, 1]), 4) == 0.25


def test_beating_chance_takes_more_clips_than_a_few() -> None:
    assert beats_chance(0.6, 100, 0.5) is True
    assert beats_chance(0.6, 10, 0.5) is False
    assert beats_chance(0.5, 1000, 0.5) is False
    assert beats_chance(0.27, 10_000, 0.25) is True  # more than the coefficients' floats can hold
    assert beats_chance(0.251, 10_000, 0.25) is False
    assert beats_chance(1.0, 20, 1.0) is False


def test_agreement_ignores_absent_answers() -> None:
    matrix = agreement({"labels": np.array([0, 1, 2, 0]), "flow": np.array([0, 1, -1, 1])})
    assert matrix[0][1] == pytest.approx(2 / 3)
    assert matrix[1][1] == 1


def test_overconfident_teachers_get_a_temperature_above_one() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 300)
    logits = np.eye(3, dtype=np.float32)[np.where(random.random(300) < 0.6, labels, (labels + 1) % 3)] * 20
    assert fit_temperatures({"action": logits}, {"action": labels})["action"] > 5


def test_the_audit_stops_for_a_teacher_at_chance() -> None:
    entry = {"accuracy": {"action": [0.3, 0.2, 0.4]}, "clips": 50}
    audit = {"chance": {"action": 0.33}, "teachers": {"flow": {**entry, "verdict": "no better than chance"}}}
    with pytest.raises(TeacherError, match="'flow' is no better than chance on the 50 validation clips: action 30.0%"):
        require_better_than_chance(audit)
    audit["teachers"]["flow"]["verdict"] = "ok"
    require_better_than_chance(audit)
