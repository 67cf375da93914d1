"""The generated set in the form of EPIC-KITCHENS."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from vidistill.core.errors import RecipeError
from vidistill.data import synthetic_epic
from vidistill.data.decoding import open_frames, read_audio
from vidistill.data.formats import FORMATS
from vidistill.data.formats.epic_rows import read_rows
from vidistill.data.synthetic_epic import make_synthetic_epic
from vidistill.data.synthetic_epic_rows import SECONDS, UNSEEN, invented_story, is_tested, published_story
from vidistill.data.synthetic_kitchen import RATE, Happening, film


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_synthetic_epic(tmp_path_factory.mktemp("kitchens"), clips=44, verbs=3, nouns=3, without_audio=0.4)


def test_a_video_shows_and_sounds_the_same_each_time() -> None:
    happenings = [Happening(0.2, 1.2, 0, 1), Happening(1.4, 2.4, 5, 2)]
    first, again, other = (film(seed, "P01_01", happenings) for seed in (0, 0, 1))
    assert (first.frames == again.frames).all() and (first.sound == again.sound).all() and first.boxes == again.boxes
    assert (first.frames != other.frames).any()
    assert set(first.boxes) == {*range(3, 15), *range(17, 29)}
    assert all(0 <= edge <= 1 for found in first.boxes.values() for box in found for edge in box["box"])


def test_the_format_makes_the_set_the_first_time_and_finds_it_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = FORMATS.get("synthetic_epic")
    first = read(tmp_path / "sets", clips=8, verbs=2, nouns=2)
    monkeypatch.setattr(synthetic_epic, "_write", None)
    assert read(tmp_path / "sets", clips=8, verbs=2, nouns=2) == first
    assert {clip.split for clip in first.clips} <= {"train", "test"} and len(first.clips) == 8
    assert set(first.clips[0].sources) == {"rgb", "audio", "boxes"}
    assert [path.name for path in (tmp_path / "sets").iterdir()] == [first.root.name]


def test_an_interrupted_set_is_made_anew_and_never_half_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(synthetic_epic, "_write_video", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            make_synthetic_epic(tmp_path, clips=8, verbs=2, nouns=2)
    assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]
    folder = make_synthetic_epic(tmp_path, clips=8, verbs=2, nouns=2)
    assert json.loads((folder / "synthetic.json").read_text())["rows"] == "made up"
    assert list(tmp_path.iterdir()) == [folder]


def test_the_part_of_actions_without_sound_is_as_asked_in_train_and_in_test(made: Path) -> None:
    for part in ("train", "validation"):
        rows = read_rows(made / "annotations" / f"EPIC_100_{part}.csv")
        mute = {
            video
            for video in {row.video for row in rows}
            if read_audio(made / video[:3] / "videos" / f"{video}.MP4") is None
        }
        assert sum(row.video in mute for row in rows) / len(rows) == pytest.approx(0.4, abs=0.2)
        assert 0 < len(mute) < len({row.video for row in rows})


def test_a_video_lasts_as_long_as_its_last_action(made: Path) -> None:
    row = read_rows(made / "annotations" / "EPIC_100_train.csv")[-1]
    with open_frames(made / row.participant / "videos" / f"{row.video}.MP4") as frames:
        assert frames.rate == RATE and row.end <= frames.times[-1] + 1 / RATE <= row.end + 8


def test_published_rows_are_kept_cell_by_cell(shared_data: Path) -> None:
    lists = shared_data / "annotations" / "epic100"
    story = published_story(lists, 280, 5, 6)
    known = set((lists / "EPIC_100_validation.csv").read_text(encoding="utf-8").splitlines())
    for name in ("train", "validation"):
        kept = story.files[f"EPIC_100_{name}.csv"].splitlines()
        assert set(kept) <= known and len(kept) > 50
    assert story.files["EPIC_100_verb_classes.csv"] == (lists / "EPIC_100_verb_classes.csv").read_text("utf-8-sig")
    assert {row.verb for row in story.actions} == set(story.verbs) and len(story.verbs) == 5
    assert all(row.end <= SECONDS for row in story.actions)
    assert all(is_tested(row.video) for row in story.actions if row.participant in UNSEEN)


def test_made_up_rows_are_read_like_the_published_ones(made: Path) -> None:
    lists = made / "annotations"
    rows = [*read_rows(lists / "EPIC_100_train.csv"), *read_rows(lists / "EPIC_100_validation.csv")]
    story = invented_story(44, 3, 3, 0)
    assert sorted(rows) == sorted(story.actions)
    assert max(Counter(row.video for row in rows).values()) == 4
    header = next(csv.reader((lists / "EPIC_100_train.csv").read_text().splitlines()))
    assert header[:3] == ["narration_id", "participant_id", "video_id"] and len(header) == 15
    for first, second in zip(story.actions, story.actions[1:], strict=False):
        assert first.video != second.video or first.end < second.start


@pytest.mark.parametrize("wrong", [{"verbs": 9}, {"nouns": 1}, {"clips": 3}, {"without_audio": 1.5}])
def test_options_out_of_their_range_are_refused(tmp_path: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(RecipeError, match=f"{next(iter(wrong))}="):
        make_synthetic_epic(tmp_path, **wrong)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
