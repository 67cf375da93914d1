from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from vidistill.core.errors import DataError, MissingExtra, RecipeError, StoreError
from vidistill.core.types import Clip, Signal
from vidistill.data import prepare_workers, shards
from vidistill.data.manifest import Manifest, Problem, write_manifest
from vidistill.data.prepare import ModalitySource, content_hash, prepare, store_hash
from vidistill.data.prepare_clip import prepare_clip

HERE = Path(__file__).parent


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Imported by name, so that worker processes find the functions too."""
    monkeypatch.syspath_prepend(str(HERE))
    import prepare_fakes

    return prepare_fakes


@pytest.fixture
def manifest(fakes: ModuleType, tmp_path: Path) -> Manifest:
    return fakes.make_clips(tmp_path / "source")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def change(manifest: Manifest, number: int, **changes: object) -> Manifest:
    clips = list(manifest.clips)
    clips[number] = replace(clips[number], **changes)
    return replace(manifest, clips=tuple(clips))


def path_of(manifest: Manifest, number: int) -> Path:
    return manifest.root / manifest.clips[number].sources["rgb"]


def reads(manifest: Manifest) -> Counter[str]:
    log = manifest.root / "vidéo clips" / "reads.log"
    return Counter(log.read_text().split("\n")[:-1]) if log.exists() else Counter()


def test_every_clip_is_loaded_once_and_what_it_lacks_is_derived(
    fakes: ModuleType, manifest: Manifest, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    store = prepare(
        manifest, tmp_path / "out", fakes.rgb_and_flow(), workers=1, progress=lambda *numbers: seen.append(numbers)
    )
    assert len(store) == 20 and store.modalities == ("flow", "rgb") and store.problems == ()
    for number, clip in enumerate(manifest.clips):
        original = np.load(manifest.root / clip.sources["rgb"])
        np.testing.assert_array_equal(store.signal(number, "rgb").values, original)
        flow = store.signal(number, "flow")
        np.testing.assert_array_equal(flow.values, fakes.derive(Signal(original, 10.0)).values)
        assert (flow.times is None) == (len(original) % 2 == 0)
    assert store.clips == manifest.clips
    assert set(reads(manifest).values()) == {1}
    assert seen == [(0, 20), (8, 20), (16, 20), (20, 20)]
    assert store.provenance["flow"] == {"tool": "fake", "options": {"algorithm": "diff"}, "clips": 20, "derived": 20}


def test_the_number_of_workers_changes_no_byte(fakes: ModuleType, manifest: Manifest, tmp_path: Path) -> None:
    prepare(manifest, tmp_path / "one", fakes.rgb_and_flow(), workers=1)
    prepare(manifest, tmp_path / "two", fakes.rgb_and_flow(), workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_second_call_touches_nothing(fakes: ModuleType, manifest: Manifest, tmp_path: Path) -> None:
    prepare(manifest, tmp_path / "out", fakes.rgb_and_flow(), workers=1)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    read = reads(manifest)
    prepare(manifest, tmp_path / "out", fakes.rgb_and_flow(), workers=2)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    assert reads(manifest) == read


def test_rgb_that_is_only_derived_from_is_not_stored(fakes: ModuleType, manifest: Manifest, tmp_path: Path) -> None:
    store = prepare(manifest, tmp_path / "out", fakes.rgb_and_flow(store_rgb=False), workers=1)
    assert store.modalities == ("flow",) and not store.has(0, "rgb")
    assert store.frames(0) == 4 and set(reads(manifest).values()) == {1}


def test_rgb_is_not_read_for_a_clip_that_has_its_own_flow(
    fakes: ModuleType, manifest: Manifest, tmp_path: Path
) -> None:
    clip = manifest.clips[0]
    own = replace(clip, sources={"rgb": "no such file.npy", "flow": clip.sources["rgb"]})
    record = prepare_clip(manifest.root, own, fakes.rgb_and_flow(store_rgb=False), 2)
    assert set(record.signals) == {"flow"} and record.problem is None and record.derived == frozenset()


def start(manifest: Manifest, folder: Path, workers: int, delay: float) -> subprocess.Popen[str]:
    write_manifest(manifest, manifest.root / "manifest.csv")
    command = [
        sys.executable,
        str(HERE / "prepare_fakes.py"),
        str(manifest.root),
        str(folder),
        str(workers),
        str(delay),
    ]
    # A shell's background job ignores Ctrl-C, and so would its children: the test must not depend on who started it.
    return subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_for(condition: object, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_midway_and_started_again_gives_the_same_bytes(fakes: ModuleType, tmp_path: Path, workers: int) -> None:
    manifest = fakes.make_clips(tmp_path / "source", 40)
    folder = tmp_path / "killed"
    process = start(manifest, folder, workers, 0.15)
    wait_for(lambda: (folder / "shard-00000.json").exists() and list(folder.glob("*.tmp")))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (folder / "store.json").exists()
    wait_for(lambda: not orphans(folder))
    finished = (folder / "shard-00000.json").stat().st_mtime_ns
    prepare(manifest, folder, fakes.rgb_and_flow(), workers=1)
    prepare(manifest, tmp_path / "undisturbed", fakes.rgb_and_flow(), workers=1)
    assert contents(folder) == contents(tmp_path / "undisturbed")
    assert (folder / "shard-00000.json").stat().st_mtime_ns == finished


def orphans(folder: Path) -> list[int]:
    """Processes that still have a file of the folder open (Linux; elsewhere none are seen)."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link).startswith(str(folder)):
                found.append(int(link.parts[2]))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_leaves_finished_shards_and_nothing_half_written(
    fakes: ModuleType, tmp_path: Path, workers: int
) -> None:
    manifest = fakes.make_clips(tmp_path / "source", 40)
    folder = tmp_path / "out"
    process = start(manifest, folder, workers, 0.05)
    wait_for(lambda: (folder / "shard-00000.json").exists() and list(folder.glob("*.tmp")))
    os.killpg(process.pid, signal.SIGINT)
    _, text = process.communicate(timeout=20)
    assert process.returncode in (1, -signal.SIGINT, 130)
    assert text.count("Traceback") == 1 and text.rstrip().endswith("KeyboardInterrupt")
    names = {path.name for path in folder.iterdir()}
    assert not any(name.endswith(".tmp") for name in names) and "store.json" not in names
    assert {"shard-00000.bin", "shard-00000.json"} <= names


def test_unusable_clips_are_left_out_and_reported_by_name(
    fakes: ModuleType, manifest: Manifest, tmp_path: Path
) -> None:
    path_of(manifest, 1).write_bytes(path_of(manifest, 1).read_bytes()[:200])
    path_of(manifest, 3).write_bytes(b"")
    path_of(manifest, 5).unlink()
    np.save(path_of(manifest, 7), np.zeros((1, 5, 6, 3), np.uint8))
    np.save(path_of(manifest, 9), np.zeros((0, 5, 6, 3), np.uint8))
    manifest = change(manifest, 11, fps=10.0, frames=100)
    manifest = replace(manifest, problems=(Problem("listed only", "missing", "no such file"),))
    store = prepare(manifest, tmp_path / "out", fakes.rgb_and_flow(), workers=1, skip_limit=0.5)
    kinds = {problem.clip: problem.kind for problem in store.problems}
    assert kinds == {
        "listed only": "missing", "ç 1": "corrupt", "ç 3": "empty", "ç 5": "missing", "ç 7": "short", "ç 9": "empty",
        "ç 11": "short",
    }  # fmt: skip
    assert len(store) == 14 and not set(store.ids) & set(kinds)
    assert [clip.id for clip in store.clips] == list(store.ids)
    assert store.manifest_summary["listed"] == 21 and store.manifest_summary["prepared"] == 14
    messages = {problem.clip: problem.message for problem in store.problems}
    assert messages["ç 1"] == "rgb: vidéo clips/1.npy: truncated"
    assert messages["ç 7"] == "rgb: 1 frames, at least 2 are needed"
    with pytest.raises(DataError, match="7 of 21 clips are unusable, allowed are 10%"):
        prepare(manifest, tmp_path / "out", fakes.rgb_and_flow(), workers=1, skip_limit=0.1)


@pytest.mark.parametrize("workers", [1, 2])
def test_more_unusable_clips_than_allowed_stop_with_the_first_named(
    fakes: ModuleType, manifest: Manifest, tmp_path: Path, workers: int
) -> None:
    for number in (0, 1):
        path_of(manifest, number).write_bytes(b"garbage")
    with pytest.raises(DataError, match="2 of 20 clips are unusable, allowed are 5%: 'ç 0' corrupt") as caught:
        prepare(manifest, tmp_path / "out", fakes.rgb_and_flow(), workers=workers)
    assert "\n" not in str(caught.value) and not list((tmp_path / "out").glob("*.tmp"))
    assert len(prepare(manifest, tmp_path / "out", fakes.rgb_and_flow(), workers=workers, skip_limit=0.1)) == 18


def test_no_usable_clip_is_an_error_whatever_the_limit(fakes: ModuleType, manifest: Manifest, tmp_path: Path) -> None:
    for number in range(20):
        path_of(manifest, number).unlink()
    with pytest.raises(DataError, match="20 of 20 clips are unusable.*and 15 more"):
        prepare(manifest, tmp_path / "out", fakes.rgb_and_flow(), workers=1, skip_limit=1.0)


def test_a_clip_without_a_modality_is_a_fact_and_without_any_a_problem(
    fakes: ModuleType, manifest: Manifest, tmp_path: Path
) -> None:
    name = manifest.clips[0].sources["rgb"]
    manifest = change(manifest, 0, sources={"skeleton": name})
    manifest = change(manifest, 1, sources={"rgb": name, "audio": name})
    manifest = change(manifest, 2, sources={"inertial": name})
    sources = fakes.rgb_and_flow() | {
        "skeleton": ModalitySource("skeleton", fakes.load),
        "audio": ModalitySource("audio", fakes.load_without_sound, absent=(fakes.NoSound,)),
    }
    store = prepare(manifest, tmp_path / "out", sources, workers=2)
    assert [store.has(0, name) for name in ("skeleton", "rgb", "flow")] == [True, False, False]
    assert [store.has(1, name) for name in ("audio", "rgb", "flow")] == [False, True, True]
    assert [(problem.clip, problem.kind) for problem in store.problems] == [("ç 2", "missing")]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_no_clips_fault_stops_at_once(
    fakes: ModuleType, manifest: Manifest, tmp_path: Path, workers: int
) -> None:
    sources = fakes.rgb_and_flow()
    sources["flow"] = replace(sources["flow"], derive=fakes.derive_without_package)
    with pytest.raises(MissingExtra, match="needs the package 'transformers'"):
        prepare(manifest, tmp_path / "out", sources, workers=workers, skip_limit=1.0)
    sources["flow"] = replace(sources["flow"], derive=fakes.derive_with_bug, provenance={"tool": "bug"})
    with pytest.raises(TypeError, match="a bug"):
        prepare(manifest, tmp_path / "bug", sources, workers=workers, skip_limit=1.0)


def test_a_worker_that_dies_is_one_line(fakes: ModuleType, manifest: Manifest, tmp_path: Path) -> None:
    sources = {"rgb": ModalitySource("rgb", fakes.load_and_die)}
    with pytest.raises(StoreError, match="a worker process ended unexpectedly.*fewer workers"):
        prepare(manifest, tmp_path / "out", sources, workers=2)
    assert not list((tmp_path / "out").glob("*.tmp"))


def test_a_full_disk_keeps_what_is_finished(
    fakes: ModuleType, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(shards.os, "fsync", full)
    with pytest.raises(StoreError, match="the disk is full"):
        prepare(manifest, tmp_path / "out", fakes.rgb_and_flow(), workers=1)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["prepare.json", "prepare.lock", "shard-00000.bin", "shard-00000.json"]
    prepare(manifest, tmp_path / "out", fakes.rgb_and_flow(), workers=1)
    assert set(reads(manifest).values()) == {1, 2}


def test_other_files_options_or_clips_are_never_mixed(fakes: ModuleType, manifest: Manifest, tmp_path: Path) -> None:
    sources = fakes.rgb_and_flow()
    prepare(manifest, tmp_path / "out", sources, workers=1)
    before = contents(tmp_path / "out")
    other = sources | {"rgb": replace(sources["rgb"], provenance={"tool": "fake", "options": {"short_side": 9}})}
    fewer = replace(manifest, clips=manifest.clips[:-1])
    cut = change(manifest, 0, start=0.1)
    hashes = {content_hash(manifest, sources), content_hash(manifest, other), content_hash(fewer, sources)}
    assert len(hashes | {content_hash(cut, sources), content_hash(manifest, sources, min_frames=3)}) == 5
    for changed, how in ((manifest, other), (fewer, sources), (cut, sources)):
        with pytest.raises(StoreError, match="prepared from other clips, files or options"):
            prepare(changed, tmp_path / "out", how, workers=1)
    os.utime(path_of(manifest, 0), ns=(1, 1))
    with pytest.raises(StoreError, match="prepared from other clips, files or options"):
        prepare(manifest, tmp_path / "out", sources, workers=1)
    assert contents(tmp_path / "out") == before


def test_a_checksum_stands_for_the_time_of_a_file(fakes: ModuleType, manifest: Manifest) -> None:
    manifest = change(manifest, 0, checksum="abc")
    before = content_hash(manifest, fakes.rgb_and_flow())
    os.utime(path_of(manifest, 0), ns=(1, 1))
    assert content_hash(manifest, fakes.rgb_and_flow()) == before
    assert content_hash(change(manifest, 0, checksum="abd"), fakes.rgb_and_flow()) != before


def test_other_labels_and_splits_write_only_the_index_anew(
    fakes: ModuleType, manifest: Manifest, tmp_path: Path
) -> None:
    sources = fakes.rgb_and_flow()
    first = prepare(manifest, tmp_path / "out", sources, workers=1)
    bins = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("shard-*")}
    changed = change(manifest, 1, split="val", labels={"action": "new"})
    assert store_hash(changed, sources) != store_hash(manifest, sources) == first.hash
    second = prepare(changed, tmp_path / "out", sources, workers=1)
    assert second.hash == store_hash(changed, sources) and second.indices("val").tolist() == [1]
    assert second.classes["action"][second.labels("action")[1]] == "new"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("shard-*")} == bins


def test_fixed_classes_are_those_of_the_store_and_of_its_hash(
    fakes: ModuleType, manifest: Manifest, tmp_path: Path
) -> None:
    sources = fakes.rgb_and_flow()
    seen = manifest.classes["action"]
    names = ("never shown", *reversed(seen))
    fixed = replace(manifest, fixed_classes={"action": names})
    assert store_hash(replace(manifest, fixed_classes={}, subsets={"rare": frozenset("x")}), sources) == store_hash(
        manifest, sources
    )
    assert store_hash(fixed, sources) != store_hash(manifest, sources)
    assert content_hash(fixed, sources) == content_hash(manifest, sources)
    store = prepare(fixed, tmp_path / "out", sources, workers=1)
    assert store.classes["action"] == names
    assert [names[number] for number in store.labels("action")] == [clip.labels["action"] for clip in store.clips]


def test_a_folder_of_something_else_or_in_use_is_left_alone(
    fakes: ModuleType, manifest: Manifest, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(StoreError, match="not a folder of prepared data \\('thesis.tex' is there\\)"):
        prepare(manifest, tmp_path / "mine", fakes.rgb_and_flow(), workers=1)
    held, release = threading.Event(), threading.Event()

    def hold(path: Path, key: str | None, clip: Clip) -> Signal:
        held.set()
        release.wait(10)
        return fakes.load(path, key, clip)

    slow = {"rgb": ModalitySource("rgb", hold)}
    thread = threading.Thread(target=partial(prepare, manifest, tmp_path / "out", slow, workers=1))
    thread.start()
    held.wait(10)
    with pytest.raises(StoreError, match="another process is preparing this folder"):
        prepare(manifest, tmp_path / "out", slow, workers=1)
    release.set()
    thread.join()


@pytest.mark.parametrize("numbers", [{"workers": 0}, {"skip_limit": 1.5}, {"min_frames": 0}])
def test_numbers_out_of_range_are_refused(fakes: ModuleType, manifest: Manifest, tmp_path: Path, numbers: dict) -> None:
    with pytest.raises(RecipeError):
        prepare(manifest, tmp_path / "out", fakes.rgb_and_flow(), **numbers)


def test_no_clips_and_ids_given_twice_are_refused(fakes: ModuleType, manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no clips"):
        prepare(replace(manifest, clips=()), tmp_path / "out", fakes.rgb_and_flow())
    with pytest.raises(DataError, match="'ç 1' is listed 2 times"):
        prepare(change(manifest, 0, id="ç 1"), tmp_path / "out", fakes.rgb_and_flow())
    with pytest.raises(RecipeError, match="no modality"):
        prepare(manifest, tmp_path / "out", {})
    assert not (tmp_path / "out").exists()


def test_threads_of_this_process_are_given_back(fakes: ModuleType, manifest: Manifest, tmp_path: Path) -> None:
    import cv2

    cv2.setNumThreads(2)
    seen = []
    with prepare_workers._threads_kept():
        seen.append(cv2.getNumThreads())
    assert seen == [1] and cv2.getNumThreads() == 2


def real(name: str, **options: object) -> ModalitySource:
    from vidistill.modalities import MODALITIES, SignalAbsent

    modality = MODALITIES.get(name)
    chosen = modality.Source(**options)
    derive = partial(modality.derive, options=chosen) if modality.derivable else None
    load = partial(modality.load, options=chosen)
    return ModalitySource(name, load, derive, chosen.provenance(), absent=(SignalAbsent,))


def test_real_clips_are_prepared_with_flow_and_the_poses_they_have(shared_data: Path, tmp_path: Path) -> None:
    from vidistill.data.formats import FORMATS

    whole = FORMATS.get("jhmdb")(shared_data / "jhmdb")
    posed = [clip for clip in whole.clips if "pose" in clip.sources][:2]
    bare = [clip for clip in whole.clips if "pose" not in clip.sources][:2]
    manifest = replace(whole, clips=(*posed, *bare))
    sources = {"rgb": real("rgb", short_side=64), "flow": real("flow", short_side=64), "pose": real("pose")}
    sources["pose"] = replace(sources["pose"], derive=None)
    store = prepare(manifest, tmp_path / "out", sources, workers=1)
    assert store.problems == () and store.present("pose").tolist() == [True, True, False, False]
    for number, clip in enumerate(manifest.clips):
        rgb, flow = store.signal(number, "rgb"), store.signal(number, "flow")
        assert len(rgb) == len(flow) == clip.frames == store.frames(number)
        assert rgb.values.dtype == np.uint8 and min(rgb.values.shape[1:3]) == 64 and flow.values.shape[3] == 2
        assert store.rate(number) == pytest.approx(30.0, rel=0.01)
    assert abs(len(store.signal(0, "pose")) - store.frames(0)) <= 1


def test_cut_and_empty_real_videos_are_named(shared_data: Path, tmp_path: Path) -> None:
    videos = sorted((shared_data / "jhmdb" / "video" / "clap").glob("*.mp4"))[:6]
    for number, video in enumerate(videos):
        data = video.read_bytes()
        (tmp_path / f"{number}.mp4").write_bytes({1: data[: len(data) // 2], 2: b"", 3: b"no video"}.get(number, data))
    clips = tuple(Clip(f"{n}", "train", {"action": "clap"}, {"rgb": f"{n}.mp4"}) for n in range(6))
    store = prepare(Manifest(tmp_path, clips), tmp_path / "out", {"rgb": real("rgb")}, workers=1, skip_limit=0.5)
    assert {problem.clip: problem.kind for problem in store.problems} == {"1": "corrupt", "2": "empty", "3": "corrupt"}
    assert all(str(tmp_path) not in problem.message for problem in store.problems)


def test_depth_skeleton_and_inertial_of_real_clips_are_stored(shared_data: Path, tmp_path: Path) -> None:
    from vidistill.data.formats import FORMATS

    whole = FORMATS.get("utd_mhad")(shared_data / "utd_mhad")
    manifest = replace(whole, clips=whole.clips[:3])
    names = ("depth", "skeleton", "inertial")
    store = prepare(manifest, tmp_path / "out", {name: replace(real(name), derive=None) for name in names}, workers=1)
    assert store.problems == () and all(store.present(name).all() for name in names)
    assert store.frames(0) == len(store.signal(0, "depth"))
    assert store.signal(0, "inertial").rate == pytest.approx(50.0)
