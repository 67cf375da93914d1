from __future__ import annotations

from pathlib import Path

import pytest

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.registry import check_options
from vidistill.data.formats.egtea import read_egtea
from vidistill.data.manifest import Manifest, check

A = "OP01-R01-PastaSalad-1002316-1004005-F024051-F024101"
B = "P03-R02-Pizza-100-200-F000001-F000024"
C = "OP02-R01-Pizza-5-6-F000007-F000009"


def write(root: Path, train: list[str] | None = None, test: list[str] | None = None) -> Path:
    folder = root / "action_annotation"
    folder.mkdir(exist_ok=True)
    (folder / "train_split1.txt").write_text("\n".join(train or [f"{A} 1 2 1", f"{B} 10 1 2"]))
    (folder / "test_split1.txt").write_text("\n".join(test or [f"{C} 10 1 2"]))
    (folder / "action_idx.txt").write_text("Inspect/Read recipe 1\nOpen Fridge 10\n")
    (folder / "verb_idx.txt").write_text("Open 1\nInspect/Read 2\n")
    (folder / "noun_idx.txt").write_text("recipe 1\nFridge 2\n")
    for name in (A, B, C):
        path = root / "cropped_clips" / "-".join(name.split("-")[:3]) / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def read(root: Path, **options: object) -> Manifest:
    return read_egtea(root, **check_options(read_egtea, options, where="data", skip=1))


def test_clips_lie_in_their_sessions_and_classes_count_from_one(tmp_path: Path) -> None:
    manifest = read(write(tmp_path))
    assert [(clip.split, clip.labels["action"], clip.group) for clip in manifest.clips] == [
        ("train", "Inspect/Read recipe", "OP01-R01-PastaSalad"),
        ("train", "Open Fridge", "P03-R02-Pizza"),
        ("test", "Open Fridge", "OP02-R01-Pizza"),
    ]
    assert manifest.clips[0].sources == {"rgb": f"OP01-R01-PastaSalad/{A}.mp4"}
    check(manifest, ["action"])
    assert read(tmp_path, labels="number").classes["action"] == ("01", "10")
    assert read(tmp_path, heads=["verb", "noun"]).clips[0].labels == {"verb": "Inspect/Read", "noun": "recipe"}


def test_a_list_may_give_the_action_alone_and_then_has_no_verb(tmp_path: Path) -> None:
    write(tmp_path, [f"{A} 1", f"{B} 10"])
    assert len(read(tmp_path).clips) == 3
    with pytest.raises(DataError, match="the lists give no verb of OP01-R01-PastaSalad"):
        read(tmp_path, heads=["verb"])


def test_a_missing_clip_is_a_problem(tmp_path: Path) -> None:
    (write(tmp_path) / "cropped_clips/P03-R02-Pizza" / f"{B}.mp4").unlink()
    assert [problem.clip for problem in read(tmp_path).problems] == [B]


@pytest.mark.parametrize(
    ("train", "says"),
    [
        ([f"{A} 0 1 1"], "train_split1.txt: line 1: .*numbers from 1"),
        ([f"{A} 1 2"], "line 1: .* is not '<clip> <action>"),
        ([A], "line 1: "),
        ([f"{A} 1", "../x 1"], "line 2: '../x' is not a clip's name"),
        ([f"{A} 1", f"{A} 1"], "line 2: the clip .* is there twice"),
        ([f"{A} 7"], "has the action 7, which action_idx.txt lacks"),
        ([f"{C} 1"], "1 clips are in both lists"),
    ],
)
def test_wrong_lines_are_told_by_file_and_line(tmp_path: Path, train: list[str], says: str) -> None:
    with pytest.raises(DataError, match=says):
        read(write(tmp_path, train))


def test_options_out_of_range_are_refused(tmp_path: Path) -> None:
    for options, says in (({"split": 4}, "splits 1, 2 and 3, not 4"), ({"heads": []}, "heads is empty")):
        with pytest.raises(RecipeError, match=says):
            read(tmp_path, **options)


def test_wrong_class_names_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path) / "action_annotation" / "action_idx.txt"
    for text, says in (
        ("Open\n", "line 1: 'Open' is not '<class> <number>'"),
        ("Open 1\nClose 1\n", "line 2: the class 1 is there twice"),
        ("Open 1\nOpen 2\n", "classes 1 and 2 are both 'Open'"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=says):
            read(tmp_path)
