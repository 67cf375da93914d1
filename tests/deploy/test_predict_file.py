from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vidistill.core.errors import DataError, DecodeError, ModelError, RecipeError
from vidistill.core.types import Outputs
from vidistill.deploy.export import export_onnx
from vidistill.deploy.inputs import InputPipeline, read_stretches, stretch
from vidistill.deploy.predict import Predictor, split_key
from vidistill.deploy.quantise import quantise_int8
from vidistill.deploy.session import read_metadata
from vidistill.modalities.rgb import Rgb, RgbSource

RED, GREEN, BLUE = (200, 20, 20), (20, 200, 20), (20, 20, 200)
MakeVideo = Callable[..., Path]


class Mean(nn.Module):
    """Logits are the mean of the input and its negative."""

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> Outputs:
        mean = x.flatten(1).mean(1, keepdim=True)
        return Outputs({"action": torch.cat((mean, -mean), 1)}, mean)


def export_mean(path: Path, shape: tuple[int, ...], source: dict[str, Any], frames: int) -> Predictor:
    metadata = {"input": source, "view": {"frames": frames}}
    export_onnx(Mean(), shape, {"action": ["up", "down"]}, metadata, path)
    return Predictor(path)


@pytest.fixture(scope="module")
def predictor(exported: Path) -> Predictor:
    return Predictor(exported, threads=1)


@pytest.mark.parametrize(("colour", "label"), [(RED, "rouge foncé"), (GREEN, "green"), (BLUE, "blue")])
def test_a_video_gets_the_label_that_it_shows(
    predictor: Predictor, make_video: MakeVideo, colour: tuple[int, int, int], label: str
) -> None:
    video = make_video("le clip été.mp4", [colour] * 12)
    answer = predictor.predict(video)
    assert answer["predictions"]["colour"][0]["label"] == label
    assert (answer["file"], answer["frames"], answer["rate"], answer["seconds"]) == (str(video), 12, 10.0, 1.2)
    assert answer["model"] == "mean-colour" and answer["views"] == 2
    assert json.loads(json.dumps(answer)) == answer


def test_probabilities_are_ordered_sum_to_one_and_are_cut_at_top(predictor: Predictor, make_video: MakeVideo) -> None:
    video = make_video("a.mp4", [GREEN] * 6)
    every = predictor.predict(video, top=99)["predictions"]
    for head, count in (("colour", 3), ("light", 2)):
        probabilities = [entry["probability"] for entry in every[head]]
        assert len(probabilities) == count and probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1.0)
    assert predictor.predict(video, top=1)["predictions"]["colour"] == every["colour"][:1]
    with pytest.raises(RecipeError, match="top is 0"):
        predictor.predict(video, top=0)


@pytest.mark.parametrize("size", [(48, 64), (34, 30), (122, 46)])
def test_one_frame_and_odd_sizes_are_clips_like_any_other(
    predictor: Predictor, make_video: MakeVideo, size: tuple[int, int]
) -> None:
    answer = predictor.predict(make_video("one.mp4", [BLUE], size=size))
    assert answer["frames"] == 1
    assert answer["predictions"]["colour"][0]["label"] == "blue"


def test_a_long_video_is_seen_from_its_start_to_its_end(predictor: Predictor, make_video: MakeVideo) -> None:
    video = make_video("long.mp4", [BLUE] * 20 + [GREEN] * 5 + [RED] * 50)
    answer = predictor.predict(video)
    assert answer["views"] == 7 * 2
    ranked = [entry["label"] for entry in answer["predictions"]["colour"]]
    assert ranked == ["rouge foncé", "blue", "green"]


def test_windows_of_a_long_video_are_bounded_and_cover_it(exported: Path, make_video: MakeVideo) -> None:
    pipeline = InputPipeline({**read_metadata(exported), "duration": 0.4}, "model")
    video = make_video("long.mp4", [RED] * 100)
    windows = list(pipeline.windows(video, None, pipeline.extent(video)))
    assert len(windows) == 12
    assert all(3 <= window.shape.frames <= 5 for window in windows)


def test_reading_stretches_in_one_pass_equals_loading_each(make_video: MakeVideo) -> None:
    shades = [(i * 3, 255 - i * 3, 40) for i in range(60)]
    video = make_video("shades.mp4", shades, size=(96, 128))
    clips = [stretch(0.0, 1.0), stretch(2.5, 3.5), stretch(5.0, 6.0)]
    options = RgbSource(short_side=40)
    for clip, signal in zip(clips, read_stretches(video, clips, options), strict=True):
        loaded = Rgb.load(video, None, clip, options)
        np.testing.assert_array_equal(signal.values, loaded.values)
        assert (signal.rate, signal.start, signal.times) == (loaded.rate, loaded.start, loaded.times)


def test_the_input_is_what_training_made_of_the_same_view(exported: Path, make_video: MakeVideo) -> None:
    pipeline = InputPipeline(read_metadata(exported), "model")
    video = make_video("shades.mp4", [(i * 10, 100, 255 - i * 10) for i in range(12)])
    signal = Rgb.load(video, None, stretch(), RgbSource(short_side=40))
    window = next(pipeline.windows(video, None, pipeline.extent(video)))
    views = [pipeline.policy.test("any other id", number, window.shape) for number in range(2)]
    expected = torch.stack([Rgb(frames=4, size=32).encode(signal, view) for view in views])
    torch.testing.assert_close(pipeline.encode(window), expected, rtol=0, atol=0)
    # Without the detour over the stored size only interpolation differs.
    torch.testing.assert_close(pipeline.one_view(video), expected[0], rtol=0, atol=0.1)


def test_an_int8_file_is_enough_to_predict(exported: Path, make_video: MakeVideo, tmp_path: Path) -> None:
    video = make_video("green.mp4", [GREEN] * 12)
    pipeline = InputPipeline(read_metadata(exported), "model")
    clips = pipeline.encode(next(pipeline.windows(video, None, pipeline.extent(video)))).numpy()
    quantise_int8(exported, [clips, -clips], tmp_path / "int8.onnx")
    answer = Predictor(tmp_path / "int8.onnx").predict(video)
    assert answer["predictions"]["colour"][0]["label"] == "green"


@pytest.mark.parametrize("content", [b"", b"this is no video", None])
def test_a_broken_or_absent_file_is_one_line(predictor: Predictor, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "broken clip.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DecodeError, match="broken clip.mp4") as caught:
        predictor.predict(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_video_is_one_line(predictor: Predictor, make_video: MakeVideo) -> None:
    video = make_video("cut.mp4", [RED, GREEN, BLUE] * 20)
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    with pytest.raises(DecodeError, match="cut.mp4"):
        predictor.predict(video)


def test_flow_is_derived_from_the_video_short_or_long(tmp_path: Path, make_video: MakeVideo) -> None:
    model = export_mean(tmp_path / "flow.onnx", (2, 3, 16, 16), {"modality": "flow", "size": 16}, 3)
    video = make_video("still.mp4", [RED] * 6)
    answer = model.predict(video)
    assert answer["views"] == 1
    assert answer["predictions"]["action"][0]["probability"] == pytest.approx(0.5, abs=0.01)
    assert model.predict(make_video("long.mp4", [RED] * 210))["views"] == 2
    with pytest.raises(DataError, match="two frames") as caught:
        model.predict(make_video("one.mp4", [RED]))
    assert "one.mp4" in str(caught.value)


def test_skeletons_are_read_from_arrays_and_not_from_video(tmp_path: Path, make_video: MakeVideo) -> None:
    source = {"modality": "skeleton", "kind": "jjd"}
    model = export_mean(tmp_path / "skeleton.onnx", (5, 190), source, 5)
    joints = np.random.default_rng(0).standard_normal((40, 20, 3)).astype(np.float32)
    np.save(tmp_path / "one.npy", joints)
    np.savez(tmp_path / "many.npz", first=joints, second=joints * 2)
    alone = model.predict(tmp_path / "one.npy")
    assert (alone["frames"], alone["rate"], alone["views"]) == (40, 30.0, 1)
    keyed = model.predict(f"{tmp_path / 'many.npz'}#first")
    assert keyed["predictions"] == alone["predictions"]
    assert model.predict(f"{tmp_path / 'many.npz'}#second")["predictions"] != alone["predictions"]
    with pytest.raises(DataError, match="which a video does not hold"):
        model.predict(make_video("a.mp4", [RED] * 4))
    np.save(tmp_path / "flat.npy", np.zeros((4, 7), np.float32))
    with pytest.raises(DataError, match="flat.npy"):
        model.predict(tmp_path / "flat.npy")


def test_a_file_name_may_hold_a_hash(tmp_path: Path) -> None:
    (tmp_path / "take #3.mp4").write_bytes(b"")
    assert split_key(tmp_path / "take #3.mp4") == (tmp_path / "take #3.mp4", None)
    assert split_key("folder/all.npz#run/clip") == (Path("folder/all.npz"), "run/clip")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": None}, "lacks 'input'"),
        ({"view": None}, "lacks 'view'"),
        ({"input": {"modality": "rgb", "size": 16}}, "its encoding gives"),
        ({"input": {"modality": "rbg"}}, "Did you mean 'rgb'"),
        ({"input": {"modality": "rgb", "sise": 32}}, "Did you mean 'size'"),
    ],
)
def test_metadata_that_does_not_fit_is_refused_in_one_line(
    exported: Path, change: dict[str, Any], message: str
) -> None:
    metadata = {key: value for key, value in {**read_metadata(exported), **change}.items() if value is not None}
    with pytest.raises((ModelError, RecipeError), match=message) as caught:
        InputPipeline(metadata, "student.onnx")
    assert "student.onnx" in str(caught.value) and "\n" not in str(caught.value)


def test_a_real_clip_is_predicted(predictor: Predictor, shared_data: Path) -> None:
    videos = sorted((shared_data / "jhmdb" / "video").rglob("*.mp4"))[:1] or pytest.skip("no real clips")
    answer = predictor.predict(videos[0])
    assert answer["frames"] > 10 and answer["views"] >= 2
