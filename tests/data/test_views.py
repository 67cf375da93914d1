from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidistill.core.errors import RecipeError
from vidistill.data.views import ClipShape, ViewPolicy, largest_crop

shapes = st.builds(ClipShape, st.integers(1, 200), st.floats(5, 60), st.floats(0.3, 3.0))
policies = st.builds(
    ViewPolicy,
    frames=st.integers(1, 32),
    sampling=st.sampled_from(["uniform", "dense"]),
    stride=st.integers(1, 8),
    aspect=st.one_of(st.none(), st.floats(0.5, 2.0)),
    flip=st.sampled_from([0.0, 0.5, 1.0]),
    colour=st.sampled_from([0.0, 0.3]),
    test_clips=st.integers(1, 4),
)


@given(policies, shapes, st.integers(0, 5), st.integers(0, 50))
def test_a_view_depends_on_seed_clip_and_number_alone(
    policy: ViewPolicy, shape: ClipShape, seed: int, number: int
) -> None:
    first, again = policy.train(seed, "clip", number, shape), policy.train(seed, "clip", number, shape)
    np.testing.assert_array_equal(first.times, again.times)
    assert (first.box, first.flip, first.colour) == (again.box, again.flip, again.colour)


@given(policies, shapes, st.integers(0, 50))
def test_views_stay_within_the_clip_and_the_frame(policy: ViewPolicy, shape: ClipShape, number: int) -> None:
    views = [policy.train(0, "c", number, shape)]
    views += [policy.test("c", n, shape) for n in range(policy.test_views)]
    for view in views:
        assert len(view.times) == policy.frames
        assert (np.diff(view.times) >= 0).all()
        assert view.times[0] >= 0
        assert view.times[-1] <= (shape.frames - 1) / shape.rate + 1e-9
        x0, y0, x1, y1 = view.box
        assert 0 <= x0 < x1 <= 1 + 1e-9
        assert 0 <= y0 < y1 <= 1 + 1e-9


def test_other_numbers_give_other_views() -> None:
    policy, shape = ViewPolicy(frames=8), ClipShape(100, 25.0)
    assert policy.train(0, "c", 0, shape).box != policy.train(0, "c", 1, shape).box
    assert policy.train(0, "c", 0, shape).box != policy.train(1, "c", 0, shape).box
    assert policy.train(0, "c", 0, shape).box != policy.train(0, "d", 0, shape).box


@given(st.floats(0.3, 3.0), st.floats(0.3, 3.0))
def test_the_largest_crop_has_the_aspect_and_touches_the_frame(aspect: float, frame: float) -> None:
    width, height = largest_crop(aspect, frame)
    assert max(width, height) == pytest.approx(1.0)
    assert width * frame / height == pytest.approx(aspect)


def test_three_crops_are_start_middle_and_end() -> None:
    policy, shape = ViewPolicy(aspect=1.0, test_crops=3, test_clips=2), ClipShape(50, 25.0, 2.0)
    boxes = [policy.test("c", n, shape).box for n in range(policy.test_views)]
    assert [b[0] for b in boxes] == [0.0, 0.0, 0.25, 0.25, 0.5, 0.5]


def test_test_views_are_never_flipped_or_coloured() -> None:
    view = ViewPolicy(flip=1.0, colour=0.5).test("c", 0, ClipShape(20, 10.0))
    assert not view.flip
    assert view.colour is None


@pytest.mark.parametrize(
    "options", [{"frames": 0}, {"scale": (0.0, 1.0)}, {"flip": 2.0}, {"test_crops": 3}, {"stretch": 0.5}]
)
def test_impossible_policies_are_refused(options: dict) -> None:
    with pytest.raises(RecipeError, match="views"):
        ViewPolicy(**options)


windows = st.builds(ViewPolicy, frames=st.integers(1, 8), stride=st.integers(1, 4), steps=st.integers(2, 12))


@given(windows, shapes)
def test_windows_lie_end_to_end_and_show_every_step_once(policy: ViewPolicy, shape: ClipShape) -> None:
    views = [policy.test("c", number, shape) for number in range(policy.views_of(shape))]
    starts = np.concatenate([view.times.reshape(policy.steps, -1)[:, 0] for view in views]) * shape.rate
    wanted = np.minimum(np.arange(len(starts)) * policy.step_frames, shape.frames - 1)
    np.testing.assert_allclose(starts, wanted, atol=1e-6)
    assert policy.steps_of(shape) <= len(starts) < policy.steps_of(shape) + policy.steps


@given(windows, shapes, st.integers(0, 50))
def test_training_windows_stay_within_the_clip(policy: ViewPolicy, shape: ClipShape, number: int) -> None:
    times = policy.train(0, "c", number, shape).times
    assert len(times) == policy.steps * policy.frames
    assert times[0] >= 0 and times[-1] <= (shape.frames - 1) / shape.rate + 1e-9


def test_windows_are_no_place_for_several_test_clips() -> None:
    with pytest.raises(RecipeError, match=r"cover a clip once"):
        ViewPolicy(steps=4, test_clips=2)


def test_a_policy_without_steps_keeps_its_key() -> None:
    assert "steps" not in ViewPolicy().key()
    assert ViewPolicy(steps=3).key()["steps"] == 3
