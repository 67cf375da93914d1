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
multiscale = st.builds(
    ViewPolicy,
    aspect=st.one_of(st.none(), st.floats(0.5, 2.0)),
    crop=st.just("multiscale"),
    scales=st.lists(st.floats(0.2, 1.0), min_size=1, max_size=5).map(tuple),
    places=st.sampled_from([5, 13]),
)


@given(policies, shapes, st.integers(0, 5), st.integers(0, 50))
def test_a_view_depends_on_seed_clip_and_number_alone(
    policy: ViewPolicy, shape: ClipShape, seed: int, number: int
) -> None:
    first, again = policy.train(seed, "clip", number, shape), policy.train(seed, "clip", number, shape)
    np.testing.assert_array_equal(first.times, again.times)
    assert (first.box, first.flip, first.colour) == (again.box, again.flip, again.colour)


@given(st.one_of(policies, multiscale), shapes, st.integers(0, 50))
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
    "options",
    [
        {"frames": 0},
        {"scale": (0.0, 1.0)},
        {"flip": 2.0},
        {"test_crops": 3},
        {"stretch": 0.5},
        {"short": "loop"},
        {"short": "loop", "sampling": "dense", "steps": 4},
        {"parts": "consecutive", "sampling": "dense"},
        {"parts": "consecutive", "steps": 4},
        {"crop": "multiscale", "scales": ()},
        {"crop": "multiscale", "scales": (1.0, 1.5)},
        {"crop": "multiscale", "stretch": 1.5},
        {"scales": (1.0, 0.5)},
        {"places": 5},
    ],
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


def test_a_policy_without_later_options_keeps_its_key_and_its_views() -> None:
    known = ["frames", "sampling", "stride", "aspect", "scale", "stretch", "flip", "colour", "test_clips", "test_crops"]
    assert list(ViewPolicy().key()) == known
    assert ViewPolicy(steps=3).key()["steps"] == 3
    looped = ViewPolicy(sampling="dense", short="loop", crop="multiscale", places=5).key()
    assert {name: looped[name] for name in looped if name not in known} == {
        "short": "loop",
        "crop": "multiscale",
        "places": 5,
    }
    view = ViewPolicy(frames=4, aspect=1.0).train(0, "clip", 0, ClipShape(40, 25.0, 1.5))
    np.testing.assert_allclose(view.times * 25, [5, 10, 28, 37])
    np.testing.assert_allclose(view.box, [0.0504655644, 0.0546024590, 0.6770664611, 0.9570560203], atol=1e-9)


@given(st.integers(1, 300), st.integers(0, 30))
def test_dense_views_at_stride_1_are_the_published_neighbouring_frames(length: int, number: int) -> None:
    policy, shape = ViewPolicy(frames=64, sampling="dense", stride=1, short="loop"), ClipShape(length, 25.0)
    train, test = (np.rint(v.times * 25) for v in (policy.train(0, "c", number, shape), policy.test("c", 0, shape)))
    offset = int((length - 63) / 2) if length >= 64 else 0
    np.testing.assert_array_equal(test, (offset + np.arange(64)) % length)
    assert 0 <= train[0] <= max(length - 64, 0)
    np.testing.assert_array_equal(train, (train[0] + np.arange(64)) % length)


def test_drawn_dense_views_begin_at_every_place_where_they_fit() -> None:
    policy, shape = ViewPolicy(frames=8, sampling="dense", stride=1), ClipShape(12, 10.0)
    starts = {round(policy.train(0, "c", number, shape).times[0] * 10) for number in range(100)}
    assert starts == {0, 1, 2, 3, 4}


def test_a_short_clip_is_held_or_looped() -> None:
    shape, options = ClipShape(5, 1.0), {"frames": 8, "sampling": "dense", "stride": 2}
    assert ViewPolicy(**options).test("c", 0, shape).times.tolist() == [0, 2, 4, 4, 4, 4, 4, 4]
    assert ViewPolicy(**options, short="loop").test("c", 0, shape).times.tolist() == [0, 2, 4, 1, 3, 0, 2, 4]


@given(length=st.integers(1, 40), frames=st.integers(1, 30), stride=st.integers(1, 5), more=st.integers(1, 4))
def test_a_looped_view_seen_more_often_goes_on_to_the_clips_end_and_begins_again(
    length: int, frames: int, stride: int, more: int
) -> None:
    policy = ViewPolicy(frames=frames, sampling="dense", stride=stride, short="loop")
    view = policy.test("c", 0, ClipShape(length, 30.0))
    assert view.loop == length / 30.0
    fine = view.times_for((frames - 1) * more + 1)
    np.testing.assert_allclose(fine[::more], view.times, atol=1e-9)
    steps = np.diff(fine) % view.loop  # a rounding error below 0 is a whole loop
    wanted = np.repeat(np.diff(view.times) % view.loop, more) / more
    assert np.abs((steps - wanted + view.loop / 2) % view.loop - view.loop / 2).max(initial=0) < 1e-9
    assert fine.min() >= 0 and fine.max() < view.loop


def test_between_the_end_of_a_looped_clip_and_its_start_nothing_of_its_middle_is_seen() -> None:
    view = ViewPolicy(frames=4, sampling="dense", stride=2, short="loop").test("c", 0, ClipShape(5, 1.0))
    assert view.times.tolist() == [0, 2, 4, 1]
    assert view.times_for(7).tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert ViewPolicy(frames=4, sampling="dense", stride=2).test("c", 0, ClipShape(5, 1.0)).loop is None


def test_test_clips_see_the_whole_clip_in_turn_or_consecutive_parts_of_it() -> None:
    shape, options = ClipShape(25, 1.0), {"frames": 3, "test_clips": 2}
    full, parts = ViewPolicy(**options), ViewPolicy(**options, parts="consecutive")
    assert [full.test("c", n, shape).times.tolist() for n in (0, 1)] == [[2, 10, 18], [6, 14, 22]]
    assert [parts.test("c", n, shape).times.tolist() for n in (0, 1)] == [[2, 6, 10], [14, 18, 22]]
    np.testing.assert_array_equal(parts.train(0, "c", 3, shape).times, full.train(0, "c", 3, shape).times)
    assert parts.key() == {**full.key(), "parts": "consecutive"}


def test_multiscale_crops_are_neighbouring_scales_at_fixed_places() -> None:
    scales, frame = (1.0, 0.875, 0.75, 0.66), 320 / 240
    for places in (5, 13):
        policy = ViewPolicy(aspect=1.0, crop="multiscale", places=places)
        boxes = np.array([policy.train(0, "c", number, ClipShape(20, 10.0, frame)).box for number in range(2000)])
        sides = (boxes[:, 2:] - boxes[:, :2]) * (frame, 1.0)  # parts of the short side
        kinds = {tuple(np.abs(np.array(scales) - side[:, None]).argmin(1)) for side in sides}
        assert kinds == {(i, j) for i in range(4) for j in range(4) if abs(i - j) <= 1}
        assert np.abs(sides[..., None] - scales).min(-1).max() < 1e-9
        room = 1 - (boxes[:, 2:] - boxes[:, :2])
        free = (room > 1e-9).all(1)
        assert len({tuple(place) for place in np.rint(4 * boxes[free, :2] / room[free]).astype(int)}) == places
