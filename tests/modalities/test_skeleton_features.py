from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.types import Signal, View
from vidistill.modalities.joints import (
    fill_missing,
    joint_distances,
    joint_vectors,
    line_distances,
    lines_of,
    mirrored,
    observed,
    velocities,
)
from vidistill.modalities.skeleton import Skeleton, mark_missing
from vidistill.modalities.skeleton_layouts import LAYOUTS, get_layout, layout_for

seeds = st.integers(0, 2**16)
VIEW = View("clip", 0, np.arange(5) / 30.0)


def points_of(seed: int, count: int = 20, frames: int = 5) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(frames, count, 3)))


def rotation(seed: int) -> torch.Tensor:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return torch.from_numpy(q)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, shift=st.tuples(*[st.floats(-5, 5)] * 3))
def test_distances_do_not_feel_translation_and_rotation(seed: int, shift) -> None:
    points = points_of(seed)
    moved = points @ rotation(seed + 1) + torch.tensor(shift, dtype=points.dtype)
    torch.testing.assert_close(joint_distances(moved), joint_distances(points))
    lines = get_layout("kinect20").lines
    torch.testing.assert_close(line_distances(moved, lines), line_distances(points, lines), rtol=1e-4, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_vectors_have_the_length_of_the_distances(seed: int) -> None:
    points = points_of(seed)
    vectors = joint_vectors(points).unflatten(1, (-1, 3))
    torch.testing.assert_close(vectors.norm(dim=-1), joint_distances(points))


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_line_distances_agree_with_the_textbook(name: str) -> None:
    layout = get_layout(name)
    points = points_of(3, layout.count, frames=1)
    ours = line_distances(points, lines_of(layout, 1))[0]
    row = []
    for a, b in layout.lines:
        for k in range(layout.count):
            if k not in (a, b):
                start, along, joint = (x.numpy() for x in (points[0, a], points[0, b] - points[0, a], points[0, k]))
                foot = start + along * np.dot(joint - start, along) / np.dot(along, along)
                row.append(np.linalg.norm(joint - foot))
    np.testing.assert_allclose(ours.numpy(), row, atol=1e-9)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_layouts_are_whole(name: str) -> None:
    layout = get_layout(name)
    assert len(set(layout.joints)) == layout.count
    assert len(layout.bones) >= layout.count - 1
    assert sorted({j for line in layout.lines for j in line}) == list(range(layout.count))
    assert len({frozenset(line) for line in layout.lines}) == len(layout.lines)
    for left, right in layout.swaps:
        sides = {layout.joints[left].split("_", 1)[0], layout.joints[right].split("_", 1)[0]}
        assert sides == {"left", "right"}
        assert layout.joints[left].split("_", 1)[1] == layout.joints[right].split("_", 1)[1]
    mirror = layout.mirror
    lines = {frozenset(line) for line in layout.lines}
    assert {frozenset(mirror[j] for j in line) for line in lines} == lines, "mirrored lines must be lines"


@settings(max_examples=20, deadline=None)
@given(seed=seeds, name=st.sampled_from(["kinect20", "kinect25", "jhmdb15", "coco17", "cad15"]))
@pytest.mark.parametrize("kind", ["joints", "jjd", "jjv", "jld"])
def test_mirroring_a_skeleton_and_the_view_is_identity(kind: str, seed: int, name: str) -> None:
    layout = get_layout(name)
    values = points_of(seed, layout.count).float()
    encoding = Skeleton(frames=5, kind=kind, joints=name)
    mirror = mirrored(values, layout) * torch.tensor([-1.0, 1.0, 1.0])
    flipped = View("clip", 0, VIEW.times, flip=True)
    again = encoding.encode(Signal(mirror.numpy(), 30.0), flipped)
    torch.testing.assert_close(again, encoding.encode(Signal(values.numpy(), 30.0), VIEW), rtol=1e-3, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_a_flip_keeps_distances_up_to_left_and_right(seed: int) -> None:
    layout = get_layout("kinect20")
    values = points_of(seed).float()
    encoding = Skeleton(frames=5, kind="jjd", mean=0.0, std=1.0)
    flipped = encoding.encode(Signal(values.numpy(), 30.0), View("clip", 0, VIEW.times, flip=True))
    torch.testing.assert_close(flipped, joint_distances(mirrored(values, layout)))


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (5, 120)),
        ({"velocity": False}, (5, 60)),
        ({"mark": True}, (5, 140)),
        ({"layout": "graph"}, (6, 5, 20)),
        ({"kind": "jjd"}, (5, 190)),
        ({"kind": "jjv"}, (5, 570)),
        ({"kind": "jld"}, (5, 27 * 18)),
        ({"kind": "jjd", "joints": "kinect25", "persons": 2}, (5, 50 * 49 // 2)),
        ({"kind": "jjd", "joints": "ntu12", "persons": 2}, (5, 276)),
        ({"kind": "jjv", "joints": "ntu12", "persons": 2}, (5, 828)),
        ({"kind": "jld", "joints": "ntu12", "persons": 2}, (5, 836)),
        ({"layout": "graph", "joints": "kinect25", "persons": 2}, (6, 5, 50)),
    ],
)
def test_shapes_are_as_encoded(options: dict, shape: tuple[int, ...]) -> None:
    encoding = Skeleton(frames=5, **options)
    values = points_of(0, get_layout(encoding.joints).source_count).float().numpy()
    assert encoding.shape == shape
    assert tuple(encoding.encode(Signal(values, 30.0), VIEW).shape) == shape
    people = np.stack((values, values + 1), 1)
    assert tuple(encoding.encode(Signal(people, 30.0), VIEW).shape) == shape


def test_a_single_person_stands_for_two() -> None:
    values = points_of(0).float().numpy()
    tensor = Skeleton(frames=5, persons=2, layout="graph").encode(Signal(values, 30.0), VIEW)
    assert torch.equal(tensor[:, :, :20], tensor[:, :, 20:])


def test_auto_is_settled_by_a_signal() -> None:
    signal = Signal(points_of(0, 25).float().numpy(), 30.0)
    encoding = Skeleton(frames=5, joints="auto")
    with pytest.raises(RecipeError, match="fitted"):
        _ = encoding.shape
    assert encoding.fitted(signal).shape == (5, 150)
    assert encoding.encode(signal, VIEW).shape == (5, 150)
    with pytest.raises(RecipeError, match="99 joints"):
        layout_for(99)
    with pytest.raises(DataError, match="25 joints, but 'kinect20' has 20"):
        Skeleton(frames=5).encode(signal, VIEW)
    with pytest.raises(RecipeError, match="Did you mean 'kinect25'"):
        Skeleton(joints="kinect26")
    with pytest.raises(RecipeError, match="graph needs kind joints"):
        Skeleton(kind="jjd", layout="graph")


@settings(max_examples=30, deadline=None)
@given(seed=seeds, share=st.floats(0.05, 0.8))
def test_gaps_in_straight_motion_are_filled_exactly_between_seen_frames(seed: int, share: float) -> None:
    random = np.random.default_rng(seed)
    start, speed = random.normal(size=(2, 6, 3))
    points = start + speed * np.arange(12)[:, None, None]
    seen = random.random((12, 6)) > share
    seen[[0, -1]] = True
    filled = fill_missing(np.where(seen[..., None], points, np.nan), seen)
    np.testing.assert_allclose(filled, points, atol=1e-4)


def test_missing_joints_are_marked() -> None:
    values = points_of(1).float().numpy()
    gaps = values.copy()
    gaps[2, 4] = 0.0
    gaps[3, 7] = np.nan
    assert mark_missing(values) is values
    marked = mark_missing(gaps)
    assert marked.shape == (5, 20, 4) and marked[..., 3].sum() == 98
    assert marked[2, 4, 3] == 0 and marked[3, 7, 3] == 0
    encoding = Skeleton(frames=5, mark=True, layout="graph")
    for signal in (Signal(gaps, 30.0), Signal(marked, 30.0)):
        tensor = encoding.encode(signal, VIEW)
        assert torch.isfinite(tensor).all()
        assert float(tensor[-1].sum()) == 98
        flipped = encoding.encode(signal, View("clip", 0, VIEW.times, flip=True))
        assert flipped[-1, 2, 8] == 0 and flipped[-1, 3, 11] == 0


def test_a_joint_that_is_never_seen_is_put_amid_the_others_and_an_absent_person_is_left_out() -> None:
    values = points_of(1).float().numpy()
    values[:, 3] = 0.0
    marked = mark_missing(values)
    np.testing.assert_allclose(marked[:, 3, :3], np.delete(values, 3, 1).mean(1), atol=1e-5)
    assert not marked[:, 3, 3].any()
    people = np.stack((points_of(2).float().numpy(), np.zeros((5, 20, 3), np.float32)), 1)
    assert mark_missing(people).shape == (5, 1, 20, 3)


@pytest.mark.parametrize("shape", [(5, 20, 3), (5, 2, 20, 3)])
def test_a_clip_without_any_joint_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"clip\.npz: no joint in any frame"):
        mark_missing(np.zeros(shape, np.float32), "clip.npz")
    assert not observed(np.full((2, 3), np.nan)).any()


def test_velocity_is_per_second_whatever_the_sampling() -> None:
    speed = torch.tensor([0.5, -1.0, 2.0])
    times = np.array([0.0, 0.1, 0.4, 0.4, 1.0])
    points = torch.from_numpy(times).float()[:, None, None] * speed + torch.zeros(5, 4, 3)
    moved = velocities(points, times)
    for step in (0, 1, 2, 4):
        torch.testing.assert_close(moved[step], speed.expand(4, 3), rtol=1e-4, atol=1e-4)
    assert not moved[3].any(), "the same sample twice has no movement"
    assert not velocities(points[:1], times[:1]).any()
