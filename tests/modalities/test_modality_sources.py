from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vidistill.core.errors import DataError, DecodeError, RecipeError
from vidistill.core.types import Clip, Signal, View
from vidistill.modalities import get_modality
from vidistill.modalities.base import content_digest, cut
from vidistill.modalities.depth import Depth, DepthSource, full_range, nearness_codes
from vidistill.modalities.flow import Flow, FlowSource
from vidistill.modalities.inertial import Inertial, InertialSource
from vidistill.modalities.pose import Pose, PoseSource
from vidistill.modalities.rgb import Rgb, RgbSource
from vidistill.modalities.skeleton import Skeleton, SkeletonSource


def clip_of(**changes) -> Clip:
    return Clip(**{"id": "a", "split": "train", "labels": {}, "sources": {}, **changes})


def moving_square(dx: int, dy: int, frames: int = 4, size: int = 64) -> np.ndarray:
    random = np.random.default_rng(0)
    texture = np.kron(random.integers(0, 255, (64, 64), np.uint8), np.ones((4, 4), np.uint8))
    return np.stack(
        [np.repeat(texture[100 - dy * t :, 100 - dx * t :][:size, :size, None], 3, 2) for t in range(frames)]
    )


def test_frames_are_stored_small_cut_and_thinned(tmp_path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (40, 30, 60, 3), np.uint8)
    np.save(tmp_path / "clip.npy", frames)
    path = tmp_path / "clip.npy"
    whole = Rgb.load(path, None, clip_of(), RgbSource(short_side=None))
    np.testing.assert_array_equal(whole.values, frames)
    small = Rgb.load(path, None, clip_of(fps=20.0, start=0.5, end=1.5), RgbSource(short_side=15))
    assert small.values.shape == (20, 15, 30, 3) and small.values.dtype == np.uint8
    assert small.rate == 20.0 and small.start == 0.0 and small.times is None
    thinned = Rgb.load(path, None, clip_of(fps=20.0), RgbSource(max_rate=7.0))
    assert len(thinned) == 14 and thinned.rate == 7.0 and thinned.times is not None
    assert np.abs(np.diff(thinned.times) - 1 / 7).max() < 0.05
    with pytest.raises(DataError, match="no frame between 9"):
        Rgb.load(path, None, clip_of(start=9.0), RgbSource())


def test_cut_counts_times_from_the_clips_start() -> None:
    signal = Signal(np.arange(10), 10.0)
    part = cut(signal, clip_of(start=0.3, end=0.6))
    assert part.values.tolist() == [3, 4, 5] and part.start == pytest.approx(0.0)
    with pytest.raises(DataError, match="Check start and end"):
        cut(signal, clip_of(start=5.0))


@pytest.mark.parametrize("algorithm", ["dis", "tvl1"])
def test_flow_at_a_frame_is_the_motion_to_the_next(algorithm: str) -> None:
    rgb = Signal(moving_square(2, -1), 25.0, 0.1)
    flow = Flow.derive(rgb, FlowSource(algorithm=algorithm))
    assert flow.values.shape == (4, 64, 64, 2) and flow.values.dtype == np.float16
    assert (flow.rate, flow.start) == (25.0, 0.1)
    np.testing.assert_allclose(np.median(flow.values.astype(np.float32), (1, 2)), [[2, -1]] * 4, atol=0.3)
    np.testing.assert_array_equal(flow.values[-1], flow.values[-2])


def test_flow_of_tiny_and_of_shrunken_frames_is_in_stored_pixels() -> None:
    tiny = Flow.derive(Signal(moving_square(1, 0, size=12), 25.0), FlowSource())
    assert tiny.values.shape == (4, 12, 12, 2)
    assert float(np.median(tiny.values[..., 0])) == pytest.approx(1.0, abs=0.4)
    half = Flow.derive(Signal(moving_square(4, 2), 25.0), FlowSource(short_side=32))
    assert half.values.shape == (4, 32, 32, 2)
    np.testing.assert_allclose(np.median(half.values.astype(np.float32), (0, 1, 2)), [2, 1], atol=0.3)
    with pytest.raises(DataError, match="two frames"):
        Flow.derive(Signal(moving_square(1, 0, frames=1), 25.0), FlowSource())


def test_flow_of_files_is_read_as_pixels_or_grey_levels(tmp_path) -> None:
    np.save(tmp_path / "flow.npy", np.full((3, 8, 8, 2), 1.5, np.float32))
    own = Flow.load(tmp_path / "flow.npy", None, clip_of(), FlowSource())
    assert own.values.dtype == np.float16 and float(own.values.max()) == 1.5
    np.save(tmp_path / "levels.npy", np.full((3, 8, 8, 3), 130, np.uint8))
    levels = Flow.load(tmp_path / "levels.npy", None, clip_of(), FlowSource(pixels_per_level=0.5, zero=128.0))
    assert float(levels.values.max()) == 1.0
    np.save(tmp_path / "grey.npy", np.zeros((3, 8, 8, 1), np.uint8))
    with pytest.raises(DataError, match="flow"):
        Flow.load(tmp_path / "grey.npy", None, clip_of(), FlowSource())


def test_millimetres_become_nearness_codes() -> None:
    millimetres = np.array([0, -5, 500, 800, 2400, 4000, 9000], np.int32).reshape(1, 1, 7)
    codes = nearness_codes(millimetres, DepthSource(), "x")
    assert codes.ravel().tolist() == [0, 0, 255, 255, 138, 20, 20]
    metres = np.array([np.nan, 1.0], np.float32).reshape(1, 1, 2) * 1000
    assert nearness_codes(metres, DepthSource(), "x").ravel().tolist() == [0, 240]
    ready = np.array([0, 9, 10, 20, 255], np.uint8).reshape(1, 1, 5)
    assert nearness_codes(ready, DepthSource(), "x").ravel().tolist() == [0, 0, 20, 20, 255]
    with pytest.raises(DataError, match="depth frames"):
        nearness_codes(np.zeros(3), DepthSource(), "x")


def test_video_levels_are_told_by_what_no_depth_looks_like() -> None:
    body = np.full((1, 4, 4, 1), 125, np.uint8)
    assert full_range(np.concatenate((body, np.full_like(body, 16))), "auto").max() == 127
    full = np.concatenate((body, np.zeros_like(body)))
    assert full_range(full, "auto") is full
    assert full_range(body, "auto") is body
    assert full_range(body, "video").max() == 127


def test_deep_images_are_depth_in_millimetres(tmp_path) -> None:
    for number in (10, 9):
        image = np.full((6, 8), 800 if number == 9 else 4000, np.uint16)
        Image.fromarray(image).save(tmp_path / f"depth_{number}.png")
    signal = Depth.load(tmp_path, None, clip_of(fps=10.0), DepthSource())
    assert signal.values.shape == (2, 6, 8, 1) and signal.rate == 10.0
    assert signal.values[:, 0, 0, 0].tolist() == [255, 20]


def test_poses_become_fractions_of_the_frame(tmp_path) -> None:
    points = np.random.default_rng(0).uniform(0.1, 0.9, (4, 15, 2)).astype(np.float32)
    np.savez(tmp_path / "pose.npz", a=points, pixels=points * [160, 120])
    np.savez(tmp_path / "pose_world.npz", a=(points - 0.5) * [4 / 3, 1])
    same = Pose.load(tmp_path / "pose.npz", "a", clip_of(), PoseSource())
    np.testing.assert_allclose(same.values[..., :2], points, atol=1e-6)
    assert (same.values[..., 2] == 1).all()
    world = Pose.load(tmp_path / "pose_world.npz", "a", clip_of(), PoseSource())
    np.testing.assert_allclose(world.values[..., :2], points, atol=1e-6)
    pixels = Pose.load(tmp_path / "pose.npz", "pixels", clip_of(), PoseSource(frame_size=(120, 160)))
    np.testing.assert_allclose(pixels.values[..., :2], points, atol=1e-6)
    with pytest.raises(DataError, match="frame_size"):
        Pose.load(tmp_path / "pose.npz", "pixels", clip_of(), PoseSource())


def test_unsure_joints_of_a_pose_are_interpolated_and_have_no_confidence(tmp_path) -> None:
    points = np.full((3, 15, 3), 0.5, np.float32)
    points[:, 2, 0] = [0.2, 0.9, 0.4]
    points[1, 2, 2] = 0.1
    np.save(tmp_path / "pose.npy", points)
    signal = Pose.load(tmp_path / "pose.npy", None, clip_of(fps=5.0), PoseSource(least_confidence=0.3))
    assert signal.values[1, 2].tolist() == pytest.approx([0.3, 0.5, 0.0]) and signal.rate == 5.0
    np.save(tmp_path / "none.npy", np.zeros((3, 15, 3), np.float32))
    with pytest.raises(DataError, match="no joint"):
        Pose.load(tmp_path / "none.npy", None, clip_of(), PoseSource())


def test_skeletons_are_read_in_metres_at_the_clips_rate(tmp_path) -> None:
    values = np.random.default_rng(0).normal(size=(8, 20, 3)) * 1000
    np.savez(tmp_path / "s.npz", **{"folder/clip one": values})
    signal = Skeleton.load(tmp_path / "s.npz", "folder/clip one", clip_of(fps=15.0), SkeletonSource(scale=0.001))
    np.testing.assert_allclose(signal.values, values / 1000, atol=1e-5)
    assert signal.rate == 15.0 and signal.values.dtype == np.float32
    np.save(tmp_path / "flat.npy", np.ones((4, 60)))
    with pytest.raises(DataError, match="joints"):
        Skeleton.load(tmp_path / "flat.npy", None, clip_of(), SkeletonSource())
    with pytest.raises(DecodeError):
        Skeleton.load(tmp_path / "s.npz", "absent", clip_of(), SkeletonSource())


def test_sensor_samples_keep_their_rate_or_span_the_clip(tmp_path) -> None:
    values = np.arange(600, dtype=np.float16).reshape(100, 6) / 100
    values[3, 2] = np.nan
    np.save(tmp_path / "s.npy", values)
    own = Inertial.load(tmp_path / "s.npy", None, clip_of(fps=30.0, frames=30), InertialSource())
    assert own.rate == 50.0 and np.isfinite(own.values).all() and own.values.dtype == np.float32
    assert own.values[3, 2] == pytest.approx((float(values[2, 2]) + float(values[4, 2])) / 2, abs=1e-2)
    spread = Inertial.load(tmp_path / "s.npy", None, clip_of(fps=30.0, frames=30), InertialSource(span="clip"))
    assert spread.duration == pytest.approx(1.0)
    np.save(tmp_path / "dead.npy", np.full((5, 6), np.nan))
    with pytest.raises(DataError, match="channel 0"):
        Inertial.load(tmp_path / "dead.npy", None, clip_of(), InertialSource())


def test_boxes_of_files_are_ordered_and_scaled(tmp_path) -> None:
    boxes = get_modality("boxes")
    rows = np.float32([[[50, 40, 10, 20, 0.2], [0, 0, 100, 80, 0.9], [np.nan, 0, 1, 1, 1]]])
    np.save(tmp_path / "b.npy", rows)
    signal = boxes.load(tmp_path / "b.npy", None, clip_of(), boxes.Source(count=2, frame_size=(80, 100)))
    np.testing.assert_allclose(signal.values, np.float32([[[0, 0, 1, 1, 0.9], [0.1, 0.25, 0.5, 0.5, 0.2]]]))
    np.save(tmp_path / "four.npy", rows[..., :4])
    assert boxes.load(tmp_path / "four.npy", None, clip_of(), boxes.Source()).values[0, :, 4].tolist() == [1, 1, 0]
    np.save(tmp_path / "bad.npy", np.ones((3, 4)))
    with pytest.raises(DataError, match="boxes"):
        boxes.load(tmp_path / "bad.npy", None, clip_of(), boxes.Source())


@pytest.mark.parametrize("name", ["rgb", "skeleton", "inertial", "audio"])
def test_what_video_cannot_give_says_so(name: str) -> None:
    modality = get_modality(name)
    assert not modality.derivable
    with pytest.raises(RecipeError, match="cannot be derived"):
        modality.derive(Signal(moving_square(1, 0), 25.0), modality.Source())


def test_provenance_notices_new_weights(tmp_path) -> None:
    file = tmp_path / "w.pth"
    file.write_bytes(b"1")
    before = PoseSource(weights=str(file)).provenance()
    file.write_bytes(b"2")
    assert PoseSource(weights=str(file)).provenance() != before
    folder = content_digest(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert content_digest(tmp_path) != folder


def test_real_clips_load_and_encode(shared_data) -> None:
    root = shared_data / "utd_mhad"
    clip = clip_of(fps=30.0, frames=76)
    depth = Depth.load(root / "depth" / "a10_s1_t1_depth.mp4", None, clip, DepthSource())
    assert depth.values.shape == (76, 112, 150, 1)
    assert 0.7 < float((depth.values == 0).mean()) < 0.95, "the background has no depth"
    skeleton = Skeleton.load(root / "skeleton_T20x3.npz", "a10_s1_t1", clip, SkeletonSource())
    inertial = Inertial.load(root / "inertial_T6.npz", "a10_s1_t1", clip, InertialSource(span="clip"))
    assert len(skeleton) == 76 and inertial.duration == pytest.approx(depth.duration, abs=0.02)
    view = View("a", 0, np.linspace(0, 2.4, 8))
    for encoding, signal in ((Depth(size=56), depth), (Skeleton(), skeleton), (Inertial(), inertial)):
        assert np.isfinite(encoding.with_frames(8).encode(signal, view).numpy()).all()
    poses = shared_data / "jhmdb" / "jhmdb_pose_world_confident.npz"
    pose = Pose.load(poses, "clap/Clap_Hands_clap_u_nm_np1_fr_med_2", clip_of(fps=30.0), PoseSource())
    x = pose.values[..., 0].mean(0)
    assert x[4] > x[3], "facing the camera, the left shoulder is on the right"
