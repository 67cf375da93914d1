from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vidistill.core.errors import DataError
from vidistill.core.seeds import generator
from vidistill.tasks.boundary_clips import boundary_clip, boundary_triplets

FRAMES = 64


@st.composite
def annotations(draw, frames: int = FRAMES):
    """Up to 4 segments, some overlapping, and a seed."""
    seed = draw(st.integers(0, 100_000))
    source = np.random.default_rng(seed)
    count = draw(st.integers(0, 4))
    start = source.uniform(0, frames - 8, count)
    end = np.minimum(start + source.uniform(2, 30, count), frames)
    return np.stack([start, end, np.ones(count)], axis=1), seed, draw(st.integers(3, 9))


def inside(frames: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Which frames (n,) reach into a segment: frame f is the stretch [f, f + 1]."""
    return ((frames[:, None] + 1 > segments[:, 0]) & (frames[:, None] < segments[:, 1])).any(1)


@given(annotations())
def test_a_chunk_of_background_is_moved_into_an_action_and_nothing_is_lost(case) -> None:
    segments, seed, chunk = case
    ours = boundary_clip(segments, generator(seed, "boundary").integers, chunk=chunk, frames=FRAMES)
    assert sorted(ours.frames.tolist()) == list(range(FRAMES))
    if not ours.found:
        assert ours.frames.tolist() == list(range(FRAMES)) and not ours.proposals.any()
        return
    left, right, moved = ours.proposals
    place = int(moved[0]) - 1
    source = ours.frames[place : place + chunk]
    assert (np.diff(source) == 1).all() and not inside(source, segments).any()
    assert moved.tolist() == [place + 1, place + chunk - 1] and left[1] == place and right[0] == place + chunk
    assert left[1] - left[0] >= chunk and right[1] - right[0] >= chunk
    length = (left[1] - left[0]) + (right[1] - right[0])
    assert np.isclose(length, segments[:, 1] - segments[:, 0]).any()


@given(annotations())
def test_both_parts_hold_the_actions_own_frames_in_order(case) -> None:
    segments, seed, chunk = case
    ours = boundary_clip(segments, generator(seed).integers, chunk=chunk, frames=FRAMES)
    if ours.found:
        (start, place), (again, end), _ = ours.proposals
        whole = np.r_[int(np.ceil(start)) : int(place), int(again) : int(np.floor(end))]
        assert (np.diff(ours.frames[whole]) == 1).all()
        assert inside(ours.frames[whole], segments).all()


@given(annotations(), st.sampled_from(["default", "released"]))
def test_the_same_chance_makes_the_same_clip(case, variant) -> None:
    segments, seed, chunk = case
    one, other = (
        boundary_clip(segments, generator(seed).integers, chunk=chunk, frames=FRAMES, variant=variant) for _ in range(2)
    )
    assert one.frames.tolist() == other.frames.tolist() and one.proposals.tolist() == other.proposals.tolist()


@given(annotations(), st.integers(0, 99))
def test_the_order_of_annotations_does_not_change_whether_there_is_a_clip(case, again) -> None:
    segments, seed, chunk = case
    other = np.random.default_rng(again).permutation(segments)
    one, two = (boundary_clip(e, generator(seed).integers, chunk=chunk, frames=FRAMES).found for e in (segments, other))
    assert one == two


@given(annotations())
def test_the_released_choice_also_loses_no_frame_and_takes_the_generator_of_python(case) -> None:
    segments, seed, chunk = case
    ours = boundary_clip(segments, random.Random(seed).randrange, chunk=chunk, frames=FRAMES, variant="released")
    assert sorted(ours.frames.tolist()) == list(range(FRAMES))
    if ours.found:
        assert FRAMES - 1 in ours.frames[-1:]  # it never moves the last frame


def test_every_start_of_every_gap_and_every_cut_is_reached() -> None:
    segments = np.array([[10.0, 20.0]])
    clips = [
        boundary_clip(segments, np.random.default_rng(seed).integers, chunk=4, frames=25).proposals
        for seed in range(300)
    ]
    assert {(each[1, 0], each[2, 0]) for each in clips} == {
        *((cut, cut - 3) for cut in (14, 15, 16)),  # from the left
        *((cut + 4, cut + 1) for cut in (14, 15, 16)),  # from the right
    }


def test_background_from_the_right_moves_the_right_part_on() -> None:
    ours = boundary_clip(np.array([[0.0, 8.0]]), lambda n: n - 1, chunk=4, frames=16)
    assert ours.frames.tolist() == [0, 1, 2, 3, 12, 13, 14, 15, 4, 5, 6, 7, 8, 9, 10, 11]
    assert ours.proposals.tolist() == [[0, 4], [8, 12], [5, 7]]


def test_background_from_the_left_moves_the_left_part_back() -> None:
    ours = boundary_clip(np.array([[8.0, 16.0, 3.0]]), lambda n: 0, chunk=4, frames=16)
    assert ours.frames.tolist() == [4, 5, 6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 12, 13, 14, 15]
    assert ours.proposals.tolist() == [[4, 8], [12, 16], [9, 11]]


@pytest.mark.parametrize(
    ("segments", "chunk"),
    [
        (np.zeros((0, 3)), 4),
        ([], 4),
        (np.array([[3.0, 9.0]]), 4),  # too short to be cut
        (np.array([[0.0, 64.0]]), 4),  # no background
        (np.array([[0.5, 40.0], [42.0, 64.0]]), 4),  # too little of it
        (np.array([[70.0, 90.0], [-30.0, -2.0]]), 4),  # nothing in the window
        (np.array([[10.0, 40.0]]), 2),  # nothing left of a chunk without its sides
        (np.array([[30.0, 30.0]]), 4),  # no length
    ],
)
def test_without_room_the_clip_stays_as_it_is(segments, chunk) -> None:
    ours = boundary_clip(segments, np.random.default_rng(0).integers, chunk=chunk, frames=64)
    assert not ours.found and ours.frames.tolist() == list(range(64)) and ours.proposals.shape == (3, 2)


@pytest.mark.parametrize("segments", [np.array([[9.0, 3.0]]), np.array([[np.nan, 3.0]]), np.array([1.0, 2.0])])
def test_wrong_segments_are_refused(segments) -> None:
    with pytest.raises(DataError, match=r"segment"):
        boundary_clip(segments, np.random.default_rng(0).integers, chunk=4, frames=64)


def test_overlapping_actions_are_no_background_unless_released() -> None:
    segments = np.array([[0.0, 30.0], [18.0, 64.0]])
    assert not boundary_clip(segments, lambda n: 0, chunk=4, frames=64).found
    assert boundary_clip(segments, lambda n: 0, chunk=4, frames=64, variant="released").found


def pooled_features(clips: int = 2) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(clips, size, 3, generator=draw, requires_grad=True) for size in (8, 12, 12)]


def test_the_triplet_compares_the_left_parts_end_with_the_starts_of_the_others() -> None:
    pooled = pooled_features()
    values = boundary_triplets(pooled, torch.tensor([True, True]), margin=100.0)
    assert values.shape == (3, 2)
    for features, weight, ours in zip(pooled, (1.0, 0.1, 0.1), values, strict=True):
        half = features.shape[1] // 2
        anchor, positive, negative = features[:, half:, 0], features[:, :half, 1], features[:, :half, 2]
        gap = (anchor - positive).norm(dim=1) - (anchor - negative).norm(dim=1) + 100
        torch.testing.assert_close(ours, weight * gap)


def test_a_positive_at_the_anchor_and_a_negative_far_away_cost_nothing() -> None:
    features = torch.zeros(1, 4, 3)
    features[:, :2, 2] = 10
    assert not boundary_triplets([features], torch.tensor([True]), weights=[1.0]).any()


def test_clips_without_proposals_teach_nothing() -> None:
    pooled = pooled_features()
    values = boundary_triplets(pooled, torch.tensor([False, True]), margin=100.0)
    values.sum().backward()
    assert not values[:, 0].any() and (values[:, 1] > 0).all()
    for features in pooled:
        assert not features.grad[0].any() and features.grad[1].any()
