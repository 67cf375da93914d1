"""Teachers left out at random: the draw itself, and what the ensemble makes of it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vidistill.core.types import ENSEMBLE, Batch, Outputs
from vidistill.tasks.recognition import Recognition
from vidistill.teachers.dropout import TeacherDropout, mixed, uniform
from vidistill.teachers.group import Teachers, Weighting

NAMES = ("a", "b", "c")


def splitmix(value: int) -> int:
    """The hash by whole numbers without limits, as published."""
    mask = (1 << 64) - 1
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return value ^ (value >> 31)


@settings(deadline=None)
@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_the_hash_is_that_of_splitmix(value: int) -> None:
    found = int(mixed(torch.tensor([value]))[0])
    assert found % (1 << 64) == splitmix(value % (1 << 64))


def kept(probability: float, clips: int = 4000, present: Tensor | None = None, seed: int = 0, view: int = 0) -> Tensor:
    everyone = torch.ones(clips, len(NAMES), dtype=torch.bool) if present is None else present
    return TeacherDropout(probability, seed, NAMES, 10)(everyone, torch.arange(clips), torch.full((clips,), view))


def test_numbers_are_uniform_and_do_not_follow_each_other() -> None:
    keys = torch.tensor([3, 4])
    clips, views = torch.arange(20_000) // 10, torch.arange(20_000) % 10
    numbers = uniform(keys, clips, views)
    assert float(numbers.min()) >= 0 and float(numbers.max()) < 1
    counts = torch.histc(numbers.flatten(), 20, 0, 1) / numbers.numel()
    assert (counts - 0.05).abs().max() < 0.005
    first = numbers[:, 0]  # against the next view, the next clip and the other teacher
    lagged = torch.stack([first[:-10], first[1:-9], first[10:], numbers[:-10, 1]])
    assert (torch.corrcoef(lagged) - torch.eye(4)).abs().max() < 0.03


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_each_teacher_is_left_out_as_often_as_the_formula_says(probability: float) -> None:
    share = 1 - kept(probability, 20_000).float().mean(0)
    expected = probability - probability**3 / 3
    error = math.sqrt(expected * (1 - expected) / 20_000)
    assert (share - expected).abs().max() < 4 * error


@settings(deadline=None, max_examples=40)
@given(st.floats(0.0, 0.999), st.integers(0, 99), st.lists(st.integers(0, 7), min_size=1, max_size=40))
def test_a_clip_that_a_teacher_sees_always_has_one_and_the_absent_stay_absent(
    probability: float, seed: int, patterns: list[int]
) -> None:
    present = torch.tensor([[bool(p & 1), bool(p & 2), bool(p & 4)] for p in patterns])
    heard = kept(probability, len(patterns), present, seed)
    assert torch.equal(heard.any(1), present.any(1)) and not (heard & ~present).any()


def test_the_draw_depends_on_seed_clip_view_and_teacher_alone() -> None:
    draw = kept(0.5, 64)
    dropout, order = TeacherDropout(0.5, 0, NAMES, 10), torch.randperm(64, generator=torch.Generator().manual_seed(0))
    everyone = torch.ones(64, 3, dtype=torch.bool)
    for start in (0, 40):  # in other batches and another order, after other draws
        part = order[start : start + 24]
        assert torch.equal(dropout(everyone[part], part, torch.zeros_like(part)), draw[part])
    assert torch.equal(
        TeacherDropout(0.5, 0, NAMES[::-1], 10)(everyone, torch.arange(64), torch.zeros(64).long()).flip(1), draw
    )
    for other in (kept(0.5, 64, seed=1), kept(0.5, 64, view=1)):
        assert not torch.equal(other, draw)
    assert not torch.equal(draw[:, 0], draw[:, 1])


def test_nobody_is_left_out_of_the_views_of_surveys() -> None:
    assert kept(0.9, view=10).all() and not kept(0.9, view=9).all()


class Says:
    """A teacher that says one number."""

    input_name = "rgb"

    def __init__(self, name: str, number: float) -> None:
        self.name, self.number = name, number

    def __call__(self, batch: Batch) -> Outputs:
        return Outputs({"action": torch.full((len(batch), 2), self.number)}, torch.zeros(len(batch), 1))

    def part(self, name: str) -> torch.nn.Module:
        return torch.nn.Identity()


def group() -> Teachers:
    members = {name: Says(name, number) for name, number in zip(NAMES, (1.0, 10.0, 100.0), strict=True)}
    weighting = Weighting("held_out", held_out={"action": (0.5, 0.3, 0.2)})
    return Teachers(members, weighting, Recognition({"action": 2}))  # type: ignore[arg-type]


def batch(clips: int = 200) -> Batch:
    return Batch(
        inputs={},
        labels={"action": torch.zeros(clips, dtype=torch.int64)},
        clip=torch.arange(clips),
        view=torch.zeros(clips, dtype=torch.int64),
        present={"rgb": torch.ones(clips, dtype=torch.bool)},
    )


def test_the_teachers_that_are_kept_share_the_weight() -> None:
    teachers, some = group().dropping(0.5, 3, 10), batch()
    answers, heard = (
        teachers(some),
        TeacherDropout(0.5, 3, NAMES, 10)(torch.ones(200, 3, dtype=torch.bool), some.clip, some.view),
    )
    expected = torch.tensor([0.5, 0.3, 0.2]) * heard
    expected /= expected.sum(1, keepdim=True)
    torch.testing.assert_close(torch.stack(list(teachers.weights(answers).values()), 1), expected)
    means = (expected * torch.tensor([1.0, 10.0, 100.0])).sum(1)
    torch.testing.assert_close(answers[ENSEMBLE].logits["action"][:, 0], means)
    assert len(set(heard.sum(1).tolist())) == 3
    assert torch.equal(answers["c"].logits["action"], torch.full((200, 2), 100.0))  # its own answer is there


def test_without_dropout_everyone_is_heard_and_the_group_itself_never_drops() -> None:
    plain = group()
    plain.dropping(0.9, 0, 10)
    for teachers in (plain, plain.dropping(0.0, 0, 10)):
        assert torch.equal(teachers(batch())[ENSEMBLE].features["weights"][0], torch.tensor([0.5, 0.3, 0.2]))
        assert teachers.heard(batch()).all()
