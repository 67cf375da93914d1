from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.registry import check_options
from vidistill.core.types import Colour, Signal, View
from vidistill.modalities import MODALITIES, get_modality
from vidistill.modalities.base import crop_pixels, fit_short_side
from vidistill.modalities.rgb import MEAN, STD, jitter

FRAMES, HEIGHT, WIDTH = 12, 24, 32
seeds = st.integers(0, 2**16)


def signal_of(name: str, seed: int = 0) -> Signal:
    random = np.random.default_rng(seed)
    shape = (FRAMES, HEIGHT, WIDTH)
    if name == "boxes":
        corners = np.sort(random.uniform(0, 1, (FRAMES, 4, 2, 2)), axis=2).reshape(FRAMES, 4, 4)
        scores = random.uniform(0.1, 1, (FRAMES, 4, 1))
        return Signal(np.concatenate((corners, scores), -1).astype(np.float32), 30.0)
    values, rate = {
        "rgb": lambda: (random.integers(0, 256, (*shape, 3), np.uint8), 30.0),
        "flow": lambda: (random.normal(size=(*shape, 2)).astype(np.float16), 30.0),
        "depth": lambda: (random.integers(20, 256, (*shape, 1), np.uint8), 30.0),
        "skeleton": lambda: (random.normal(size=(FRAMES, 20, 3)).astype(np.float32), 30.0),
        "pose": lambda: (random.uniform(0.1, 0.9, (FRAMES, 15, 3)).astype(np.float32), 30.0),
        "inertial": lambda: (random.normal(size=(20, 6)).astype(np.float32), 50.0),
        "audio": lambda: (random.normal(size=6400).astype(np.float32) * 0.1, 16000.0),
    }[name]()
    return Signal(values, rate)


def encoding_of(name: str, **options):
    sized = {"size": (12, 16)} if name in ("rgb", "flow", "depth") else {}
    mirror = {"mirror": (0, 4, 5)} if name == "inertial" else {}
    return get_modality(name)(frames=4, **{**sized, **mirror, **options})


def view_of(**changes) -> View:
    return replace(View("clip", 0, np.arange(4) * 3 / 30.0), **changes)


@pytest.mark.parametrize("name", MODALITIES.names())
def test_an_encoded_view_has_the_stated_shape(name: str) -> None:
    encoding = encoding_of(name)
    for view in (view_of(), view_of(box=(0.1, 0.2, 0.8, 0.9), flip=True, colour=Colour(1.1, 0.9, 1.1, 0.02))):
        tensor = encoding.encode(signal_of(name), view)
        assert tuple(tensor.shape) == encoding.shape
        assert tensor.dtype == torch.float32 and tensor.is_contiguous()
        assert torch.isfinite(tensor).all()


@pytest.mark.parametrize("name", MODALITIES.names())
def test_encoding_reads_a_read_only_memory_map_and_leaves_it_alone(name: str, tmp_path) -> None:
    signal = signal_of(name)
    np.save(tmp_path / "signal.npy", signal.values)
    mapped = replace(signal, values=np.load(tmp_path / "signal.npy", mmap_mode="r"))
    assert torch.equal(encoding_of(name).encode(mapped, view_of()), encoding_of(name).encode(signal, view_of()))
    np.testing.assert_array_equal(mapped.values, signal.values)


@pytest.mark.parametrize("name", MODALITIES.names())
def test_frames_none_means_the_views_own_and_shape_needs_a_number(name: str) -> None:
    encoding = replace(encoding_of(name), frames=None)
    assert torch.equal(
        encoding.encode(signal_of(name), view_of()), encoding_of(name).encode(signal_of(name), view_of())
    )
    assert encoding.with_frames(4).shape == encoding_of(name).shape
    if name != "audio":
        with pytest.raises(RecipeError, match="Set frames"):
            _ = encoding.shape


@pytest.mark.parametrize("name", MODALITIES.names())
def test_options_are_checked_against_the_dataclass(name: str) -> None:
    part = get_modality(name)
    assert part(**check_options(part, {"frames": 3}, name)).frames == 3
    with pytest.raises(RecipeError, match=r"fraems.*Did you mean 'frames'"):
        check_options(part, {"fraems": 3}, name)
    provenance = part.Source(**check_options(part.Source, {}, name)).provenance()
    assert set(provenance) == {"tool", "version", "options"} and provenance["version"]


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
@pytest.mark.parametrize("name", ["rgb", "flow", "depth"])
def test_a_flipped_view_is_the_mirror_image(name: str, seed: int) -> None:
    signal, encoding = signal_of(name, seed), encoding_of(name)
    plain, flipped = (encoding.encode(signal, view_of(flip=flip)) for flip in (False, True))
    mirrored = flipped.flip(3)
    if name == "flow":
        torch.testing.assert_close(mirrored[0], -plain[0])
        torch.testing.assert_close(mirrored[1], plain[1])
    else:
        assert torch.equal(mirrored, plain)


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_flipping_the_frames_and_the_view_is_identity(seed: int) -> None:
    for name in ("rgb", "depth", "flow"):
        signal, encoding = signal_of(name, seed), encoding_of(name)
        values = signal.values[:, :, ::-1].copy()
        if name == "flow":
            values[..., 0] *= -1
        again = encoding.encode(replace(signal, values=values), view_of(flip=True))
        torch.testing.assert_close(again, encoding.encode(signal, view_of()), rtol=1e-4, atol=1e-4)


def test_rgb_is_normalised_and_cropped_without_resampling_where_sizes_agree() -> None:
    signal = signal_of("rgb")
    tensor = encoding_of("rgb").encode(signal, view_of(box=(0.25, 0.5, 0.75, 1.0)))
    expected = signal.values[[0, 3, 6, 9], 12:24, 8:24].astype(np.float32) / 255
    expected = ((expected - np.float32(MEAN)) / np.float32(STD)).transpose(3, 0, 1, 2)
    np.testing.assert_allclose(tensor.numpy(), expected, atol=1e-5)


def test_colour_changes_only_where_the_view_has_one() -> None:
    frames = torch.rand(3, 2, 4, 4) * 200 + 20
    torch.testing.assert_close(jitter(frames, Colour()), frames, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(jitter(frames, Colour(brightness=0.5)), frames * 0.5, rtol=1e-4, atol=1e-2)
    grey = jitter(frames, Colour(saturation=0.0))
    torch.testing.assert_close(grey[0], grey[1], rtol=1e-4, atol=1e-2)
    flat = jitter(frames, Colour(contrast=0.0))
    assert float(flat.std()) < 1e-2
    torch.testing.assert_close(jitter(frames, Colour(hue=1.0)), frames, rtol=1e-3, atol=1e-1)
    assert float(jitter(frames, Colour(brightness=9.0)).max()) <= 255


@settings(max_examples=30, deadline=None)
@given(u=st.floats(-2, 2), v=st.floats(-2, 2), x0=st.floats(0, 0.4), y0=st.floats(0, 0.4))
def test_flow_vectors_are_in_output_pixels(u: float, v: float, x0: float, y0: float) -> None:
    values = np.broadcast_to(np.array([u, v], np.float32), (3, HEIGHT, WIDTH, 2)).copy()
    box = (x0, y0, 1.0, 1.0)
    tensor = get_modality("flow")(frames=3, size=(12, 16), bound=50.0).encode(
        Signal(values, 30.0), View("clip", 0, np.arange(3) / 30.0, box)
    )
    left, top, right, bottom = crop_pixels(box, HEIGHT, WIDTH)
    torch.testing.assert_close(tensor[0], torch.full((3, 12, 16), u * 16 / (right - left) / 50), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tensor[1], torch.full((3, 12, 16), v * 12 / (bottom - top) / 50), atol=1e-5, rtol=1e-4)


def test_flow_beyond_the_bound_is_clamped() -> None:
    tensor = encoding_of("flow", bound=0.01).encode(signal_of("flow"), view_of())
    assert float(tensor.abs().max()) == 1.0
    with pytest.raises(RecipeError, match="bound"):
        encoding_of("flow", bound=0.0)


def test_depth_keeps_no_depth_apart_from_far_when_it_is_resized() -> None:
    values = np.zeros((FRAMES, HEIGHT, WIDTH, 1), np.uint8)
    values[:, :, 7:19] = 200
    tensor = encoding_of("depth", size=(7, 11)).encode(Signal(values, 30.0), view_of())
    assert {round(float(x), 4) for x in tensor.unique()} == {0.0, round(200 / 255, 4)}
    standardised = encoding_of("depth", mean=0.5, std=0.25).encode(Signal(values, 30.0), view_of())
    assert (standardised == 0).any() and float(standardised.max()) == pytest.approx((200 / 255 - 0.5) / 0.25)


@settings(max_examples=30, deadline=None)
@given(
    seed=seeds,
    box=st.tuples(st.floats(0, 0.4), st.floats(0, 0.4), st.floats(0.6, 1), st.floats(0.6, 1)),
    flip=st.booleans(),
)
def test_a_pose_relative_to_the_body_does_not_feel_the_crop(seed: int, box, flip: bool) -> None:
    signal, encoding = signal_of("pose", seed), encoding_of("pose")
    whole, cropped = (encoding.encode(signal, view_of(box=b, flip=flip)) for b in ((0.0, 0.0, 1.0, 1.0), box))
    torch.testing.assert_close(whole, cropped, rtol=1e-3, atol=1e-3)


def test_a_pose_in_the_crop_moves_with_it() -> None:
    values = np.zeros((FRAMES, 15, 3), np.float32) + np.float32([0.5, 0.25, 1.0])
    encoding = encoding_of("pose", place="crop", velocity=False, layout="graph")
    tensor = encoding.encode(Signal(values, 30.0), view_of(box=(0.5, 0.0, 1.0, 0.5)))
    torch.testing.assert_close(tensor, torch.tensor([-1.0, 0.0]).view(2, 1, 1).expand(2, 4, 15))


def test_boxes_are_clipped_to_the_crop_and_vanish_outside() -> None:
    row = [[0.2, 0.2, 0.6, 0.6, 0.9], [0.0, 0.0, 0.1, 0.1, 0.8]]
    signal = Signal(np.tile(np.float32(row), (FRAMES, 1, 1)), 30.0)
    encoding = get_modality("boxes")(frames=4, count=3)
    tensor = encoding.encode(signal, view_of(box=(0.4, 0.4, 0.8, 0.8), flip=True)).view(4, 3, 5)
    torch.testing.assert_close(tensor[0, 0], torch.tensor([0.5, 0.0, 1.0, 0.5, 0.9]))
    assert not tensor[:, 1:].any()


def test_a_mirrored_sensor_is_refused_unless_its_axes_are_declared() -> None:
    signal = signal_of("inertial")
    with pytest.raises(RecipeError, match="mirror"):
        get_modality("inertial")(frames=4).encode(signal, view_of(flip=True))
    plain, flipped = (encoding_of("inertial").encode(signal, view_of(flip=flip)) for flip in (False, True))
    assert torch.equal(flipped, plain * torch.tensor([-1.0, 1, 1, 1, -1, -1]))
    with pytest.raises(DataError, match="channels"):
        encoding_of("inertial").encode(Signal(signal.values[:, :3], 50.0), view_of())


def test_sensor_steps_are_means_over_their_time() -> None:
    ramp = np.repeat(np.arange(100, dtype=np.float32)[:, None] / 50.0, 6, 1)  # the value is the time
    encoding = get_modality("inertial")(frames=8, mean=(0.0,) * 6, std=(1.0,) * 6)
    times = np.linspace(0.3, 1.6, 8)
    tensor = encoding.encode(Signal(ramp, 50.0), View("clip", 0, times))
    np.testing.assert_allclose(tensor[:, 0].numpy(), times, atol=0.012)
    alternating = np.tile(np.float32([1, -1]), 50)[:, None].repeat(6, 1)
    slow = encoding.encode(Signal(alternating, 50.0), View("clip", 0, times))
    assert float(slow.abs().max()) < 0.15, "steps longer than a sample must not alias"


@settings(max_examples=25, deadline=None)
@given(rate=st.floats(10, 120), offset=st.floats(0, 0.5))
def test_signals_of_other_rates_are_aligned_by_time(rate: float, offset: float) -> None:
    times = 0.6 + np.arange(4) * 0.2
    count = int(2.0 * rate) + 2
    sampled = offset + np.arange(count) / rate
    values = np.repeat(sampled[:, None, None], 20, 1).repeat(3, 2).astype(np.float32)
    for signal in (Signal(values, rate, offset), Signal(values, rate, times=sampled)):
        encoding = get_modality("skeleton")(frames=4, velocity=True, layout="graph")
        seen = signal.values[signal.nearest(times), 0, 0]
        assert np.abs(seen - times).max() <= 0.5 / rate + 1e-6
        assert tuple(encoding.encode(signal, View("clip", 0, times)).shape) == encoding.shape


@settings(max_examples=40, deadline=None)
@given(
    box=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
)
def test_a_crop_always_has_a_pixel(box, size) -> None:
    x0, y0, x1, y1 = crop_pixels(box, *size)
    assert 0 <= x0 < x1 <= size[1] and 0 <= y0 < y1 <= size[0]


def test_frames_are_never_stored_larger_than_they_are() -> None:
    assert fit_short_side((100, 200), 50) == (50, 100)
    assert fit_short_side((40, 30), 50) == (40, 30)
    assert fit_short_side((1, 400), 1) == (1, 400)


def test_unknown_modalities_name_the_nearest() -> None:
    with pytest.raises(RecipeError, match="Did you mean 'skeleton'"):
        get_modality("skelton")
