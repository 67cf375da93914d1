from __future__ import annotations

import numpy as np
import pytest

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.recipe import make_recipe
from vidistill.data.store import Store
from vidistill.data.streams import StreamPlan, Streams
from vidistill.stages.run import Run


@pytest.fixture
def store(tiny_recipe) -> Store:
    return Run(make_recipe(tiny_recipe)).prepared


def test_parts_follow_each_other_without_gaps_and_with_exact_boundaries(store: Store) -> None:
    streams = Streams(store, StreamPlan(clips=5))
    for number, clip in enumerate(streams.clips):
        segments = clip.segments["action"]
        assert segments[0].start == 0
        assert segments[-1].end == pytest.approx(streams.duration(number))
        for first, second in zip(segments, segments[1:], strict=False):
            assert first.end == second.start
        signal = streams.signal(number, "rgb")
        assert len(signal) == streams.frames(number)
        assert (np.diff(signal.times) >= 0).all()


def test_a_stream_shows_its_clips(store: Store) -> None:
    streams = Streams(store, StreamPlan(clips=4))
    parts = streams._streams[0].parts
    values = np.concatenate([store.signal(part, "rgb").values for part in parts])
    np.testing.assert_array_equal(streams.signal(0, "rgb").values, values)
    names = [store.classes["action"][store.labels("action")[part]] for part in parts]
    assert [segment.label for segment in streams.clips[0].segments["action"]] == names


def test_no_clip_is_in_two_splits_and_none_is_lost(store: Store) -> None:
    streams = Streams(store, StreamPlan(clips=4))
    dealt = [part for stream in streams._streams for part in stream.parts]
    assert sorted(dealt) == list(range(len(store)))
    assert all(store.clips[part].split == stream.split for stream in streams._streams for part in stream.parts)


def test_training_clips_are_dealt_again_in_other_orders(store: Store) -> None:
    streams = Streams(store, StreamPlan(clips=4, rounds=3))
    train = [stream.parts for stream in streams._streams if stream.split == "train"]
    assert len([part for parts in train for part in parts]) == 3 * len(store.indices("train"))
    assert len(set(train)) == len(train)
    assert len(set(streams.ids)) == len(streams)


def test_background_labels_are_there_but_unlabelled(store: Store) -> None:
    streams = Streams(store, StreamPlan(clips=6, background=("speed0",)))
    assert streams.classes == {"action": ("speed1", "speed2")}
    labels = {segment.label for clip in streams.clips for segment in clip.segments["action"]}
    assert labels == {"speed1", "speed2"}


def test_clips_of_left_out_labels_are_in_no_stream(store: Store) -> None:
    plan = StreamPlan(clips=6, background=("speed0",), left_out=("speed2",))
    streams = Streams(store, plan)
    assert streams.classes == {"action": ("speed1",)}
    names, labels = store.classes["action"], store.labels("action")
    shown = {names[labels[part]] for stream in streams._streams for part in stream.parts}
    assert shown == {"speed0", "speed1"}
    assert streams.hash != Streams(store, StreamPlan(clips=6, background=("speed0",))).hash


def test_a_modality_is_there_only_where_all_parts_have_it(store: Store) -> None:
    streams = Streams(store, StreamPlan(clips=30))
    assert not streams.present("inertial").any()
    assert streams.present("rgb").all()


def test_other_plans_are_other_data(store: Store) -> None:
    hashes = {Streams(store, StreamPlan(clips=4, seed=seed)).hash for seed in (0, 1)}
    assert len(hashes) == 2


@pytest.mark.parametrize(
    ("plan", "error", "says"),
    [
        ({"background": ("speed9",)}, RecipeError, "speed0|no clip is labelled"),
        ({"background": ("speed0", "speed1", "speed2")}, DataError, "every class is background"),
        ({"head": "verb"}, RecipeError, "no label 'verb'"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(store: Store, plan, error, says) -> None:
    with pytest.raises(error, match=says):
        Streams(store, StreamPlan(**plan))


def test_a_stream_of_no_clips_is_refused() -> None:
    with pytest.raises(RecipeError, match="at least 1"):
        StreamPlan(clips=0)
