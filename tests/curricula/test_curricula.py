"""The curricula that a recipe can name, through the seam that the loop uses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vidistill.core.errors import RecipeError, VidistillError
from vidistill.curricula import CURRICULA, build_curriculum


def survey_of(count: int, seed: int = 0) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    clips = np.arange(count) * 2 + 1
    return clips, torch.from_numpy(random.random(count)), torch.from_numpy(random.normal(size=(count, 16)))


@given(st.integers(1, 80), st.floats(0.01, 1.0), st.integers(0, 12))
def test_a_random_part_has_the_size_it_says_and_no_clip_twice(count: int, ratio: float, epoch: int) -> None:
    clips = np.arange(count) * 3
    part = build_curriculum("random", clips, 1, 20, {"ratio": ratio, "interval": 4})
    chosen = part.select(epoch)
    assert len(chosen) == part.size == len(set(chosen.tolist()))
    assert set(chosen.tolist()) <= set(clips.tolist())
    np.testing.assert_array_equal(chosen, part.select(epoch // 4 * 4))


@given(st.integers(1, 60), st.floats(0.01, 1.0))
def test_the_adaptive_part_is_exact_and_only_of_its_clips(count: int, ratio: float) -> None:
    clips, losses, features = survey_of(count)
    adaptive = build_curriculum("adaptive", clips, 0, 10, {"ratio": ratio})
    adaptive.learn(0, clips, losses, features)
    chosen = adaptive.select(0)
    assert len(chosen) == adaptive.size == len(set(chosen.tolist()))
    assert set(chosen.tolist()) <= set(clips.tolist())


def test_surveys_come_every_interval_and_once() -> None:
    clips, losses, features = survey_of(20)
    adaptive = build_curriculum("adaptive", clips, 0, 12, {"interval": 5})
    assert [adaptive.survey(epoch) for epoch in range(12)] == [0, None, None, None, None, 1, *[None] * 4, 2, None]
    assert len(adaptive.surveys) == 3 and adaptive.surveys[0].kind == "none"
    adaptive.learn(0, clips, losses, features)
    assert adaptive.survey(0) is None and adaptive.survey(5) == 1


def test_easy_clips_are_picked_and_taught_more_or_hard_ones() -> None:
    clips, losses, features = survey_of(40)
    means = {}
    for teach in ("easy", "hard"):
        adaptive = build_curriculum("adaptive", clips, 0, 10, {"ratio": 0.25, "teach": teach, "gamma": 1.0})
        adaptive.learn(0, clips, losses, features)
        means[teach] = losses[torch.from_numpy(np.searchsorted(clips, adaptive.select(0)))].mean()
        label, distillation = adaptive.weights(torch.from_numpy(clips))
        torch.testing.assert_close(label + distillation, torch.full((40,), 2.0))
        order = torch.argsort(losses)
        falls = distillation[order].diff() <= 1e-6
        assert falls.all() if teach == "easy" else (~falls).any()
    assert means["easy"] < losses.mean() < means["hard"]


def test_equal_difficulties_and_unseen_clips_are_sound() -> None:
    clips, _, features = survey_of(12)
    adaptive = build_curriculum("adaptive", clips, 0, 10, {"ratio": 0.25})
    adaptive.learn(0, clips[:7], torch.ones(7), features[:7])
    label, distillation = adaptive.weights(torch.from_numpy(clips))
    assert torch.equal(label, torch.ones(12)) and torch.equal(distillation, torch.ones(12))
    assert len(adaptive.select(0)) == 3


def test_a_loss_that_is_not_finite_is_named() -> None:
    clips, losses, features = survey_of(5)
    losses[2] = float("nan")
    with pytest.raises(VidistillError, match="1 of 5 clips have a distillation loss that is not finite"):
        build_curriculum("adaptive", clips, 0, 10, {}).learn(0, clips, losses, features)


def test_the_memory_travels() -> None:
    clips, losses, features = survey_of(30)
    first, again = (build_curriculum("adaptive", clips, 0, 10, {"interval": 2}) for _ in range(2))
    first.learn(0, clips, losses, features)
    again.load_state_dict(first.state_dict())
    for curriculum in (first, again):
        curriculum.learn(1, clips, losses.flip(0), features)
    np.testing.assert_array_equal(first.select(2), again.select(2))
    assert torch.equal(first.weights(torch.from_numpy(clips))[1], again.weights(torch.from_numpy(clips))[1])


@pytest.mark.parametrize(("name", "options"), [("random", {"ratio": 0}), ("adaptive", {"ratio": 2}), ("adapted", {})])
def test_wrong_names_and_options_are_refused(name: str, options: dict) -> None:
    with pytest.raises(RecipeError):
        build_curriculum(name, np.arange(9), 0, 5, options)


def test_every_curriculum_chooses_as_many_clips_as_it_says() -> None:
    for name in CURRICULA.names():
        curriculum = build_curriculum(name, np.arange(30), 0, 5, {})
        assert len(curriculum.select(0)) == curriculum.size
