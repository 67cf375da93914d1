"""Checks of the generative system's data: THUMOS14's windows and frames, transforms of recognition and detection."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

import numpy as np
import pytest
from components import Component, checks

from vidistill.data.formats.thumos14_annotations import (
    CLASS_FILE,
    PREFIX,
    VideoInfo,
    annotation_file,
    class_numbers,
    read_info,
    read_rows,
)
from vidistill.data.published_windows import (
    SIZE,
    TEST_STRIDE,
    TRAIN_STRIDE,
    boundary_maps,
    sampled_actions,
    sampled_counts,
    sampled_frames,
    train_windows,
    window_offsets,
)
from vidistill.modalities.released_generative import (
    RATIOS,
    center_crop,
    center_crop_last,
    crop_offsets,
    crop_sizes,
    imresize,
    mirrors,
    multi_scale_crop,
    normalised,
    random_crop,
    random_sized_crop,
    resize_clip,
    scale,
    symmetric,
)
from vidistill.modalities.rgb import MEAN, STD

FLOW_MEAN, FLOW_STD = (0.5,), (0.226,)
EXACT = {"rtol": 0.0, "atol": 0.0}
"""The stated tolerance is for pictures that were resized; the rest is exact."""
LEVEL = {"rtol": 0.0, "atol": 1.0}


def annotation_folder(component: Component) -> Path:
    """The annotation files: beside the component, or in data/annotations beside the parity folder."""
    beside = component.folder.resolve()
    roots = [beside, beside.parent, Path(__file__).resolve().parents[4] / "shared"]
    folders = (root / below for root in roots for below in (component.name.split("/")[0], "data/annotations/thumos14"))
    found = next((folder for folder in folders if (folder / CLASS_FILE).is_file()), None)
    if found is None:
        pytest.skip(f"{component.name} needs THUMOS14's annotation files, which are not beside the parity folder")
    return found


@checks("generative/thumos_windows*")
def check_windows(component: Component) -> None:
    folder = annotation_folder(component)
    size = int(component.number(r"clip_length ?= ?(\d+)", SIZE))
    stride = int(component.number(r"(?<!windows )stride ?= ?(\d+)", TRAIN_STRIDE))
    test_stride = int(component.number(r"test windows stride (\d+)", TEST_STRIDE))
    train, test = (re.search(pattern, component.text) for pattern in (r"/(val|test)_\*", r"on (val|test)_video_info"))
    part = "test" if train and train[1] == "test" else "train"
    classes = class_numbers(folder / CLASS_FILE)
    infos = read_info(folder / f"{PREFIX[part]}_video_info.csv")
    labels = {name: number for number, name in enumerate(classes.values(), start=1)}
    actions = sampled_actions(read_rows(annotation_file(folder, part), classes), infos, labels)
    videos = np.array(list(actions))
    windows = train_windows(list(actions.values()), [infos[name].sampled for name in actions], size, stride)
    maps = boundary_maps(windows)
    for key, ours in (
        ("out_class_orig", list(classes)),
        ("out_class_idx", list(labels.values())),
        ("out_num_windows", len(windows)),
        ("out_num_annos_total", len(windows.actions)),
        ("out_sum_start_end", maps.sum((0, 2))),
        ("out_offsets_sum", windows.offset.sum()),
        ("out_min_anno", windows.shortest),
        ("out_windows_per_video", np.bincount(windows.video, minlength=len(videos))),
        ("out_anno_first_video", actions[videos[0]]),
    ):
        component.compare(key, ours)
    for key, names in (("out_class_names", list(labels)), ("out_min_anno_video", videos.tolist())):
        assert component[key].tolist() == names
        component.settle(key)
    for match in component.outputs(r"w(?P<window>\d+)_offset"):
        window = int(match["window"])
        assert str(component[f"out_w{window}_video"]) == videos[windows.video[window]]
        component.settle(f"out_w{window}_video")
        component.compare(match[0], windows.offset[window])
        component.compare(f"out_w{window}_annos", windows.of(window))
        for place, name in enumerate(("start", "end")):
            component.compare(f"out_w{window}_{name}", maps[window, place])
    tests = read_info(folder / f"{test[1] if test else 'test'}_video_info.csv").values()
    offsets = [window_offsets(info.sampled, size, test_stride) for info in tests]
    rows = [(info.sampled, len(each), each.sum()) for info, each in zip(tests, offsets, strict=True)]
    component.compare("out_test_windows", rows)


@checks("generative/frame_sampling*")
def check_frame_sampling(component: Component) -> None:
    count = int(component.number(r"(\d+)-frame video", 200))
    rate = component.number(r"to (\d+) fps", 10)
    for match in component.outputs(r"fps(?P<fps>[\d.]+)"):
        component.compare(match[0], sampled_frames(count, float(match["fps"]), rate))
    if "out_recomputed_sample_count" in component:
        folder = annotation_folder(component)
        infos: list[VideoInfo] = []
        for name in re.findall(r"\w+_video_info\.csv", component.text):
            infos += read_info(folder / name).values()
        component.compare("out_recomputed_sample_count", sampled_counts(infos, rate))
        assert component["in_sample_count"].tolist() == [info.sampled for info in infos]


@checks("generative/detection_transforms*")
def check_detection_transforms(component: Component) -> None:
    image, clip = component["in_img"], component["in_clip"]
    for match in component.outputs(r"imresize_(?P<filter>[a-z]+)_(?P<w>\d+)x(?P<h>\d+)"):
        ours = imresize(image, (int(match["w"]), int(match["h"])), match["filter"])
        component.compare(match[0], ours.astype(int), **LEVEL)
    for match in component.outputs(r"center_crop_?(?P<side>\d+)"):
        component.compare(match[0], center_crop(clip, int(match["side"])), **EXACT)
    for match in component.outputs(r"random_crop_?(?P<side>\d+)_seed(?P<seed>\d+)"):
        component.compare(match[0], random_crop(clip, int(match["side"]), Random(int(match["seed"]))), **EXACT)
    for match in component.outputs(r"flip_seed(?P<seed>\d+)_draws"):
        random = Random(int(match["seed"]))
        component.compare(match[0], [mirrors(random) for _ in component[match[0]]], **EXACT)
    for match in component.outputs(r"resizeclip(?P<side>\d+)"):
        frames = np.stack([np.moveaxis(image, -1, 0)] * component[match[0]].shape[1], 1)
        component.compare(match[0], resize_clip(frames, int(match["side"])).astype(int), **LEVEL)
    if "out_rgb_norm" in component:
        levels = component["in_levels"] if "in_levels" in component else np.array([0, 1, 127, 128, 255])
        component.compare("out_rgb_norm", symmetric(levels), rtol=0.0, atol=1e-6)


@checks("generative/recognition_transforms*")
def check_recognition_transforms(component: Component) -> None:
    clips = {kind: component[f"in_{kind}"] for kind in ("rgb", "flow")}
    ratios = {"rgb": RATIOS[3], "flow": RATIOS[2], "": RATIOS[3]}
    side = int(component.number(r"MultiScaleCrop to (\d+)x", 16))
    for match in component.outputs(r"scale(?P<side>\d+)_(?P<kind>rgb|flow)"):
        component.compare(match[0], scale(clips[match["kind"]], int(match["side"])), **LEVEL)
    for match in component.outputs(r"center(?P<side>\d+)_(?P<kind>rgb|flow)"):
        component.compare(match[0], center_crop_last(clips[match["kind"]], int(match["side"])), **EXACT)
    for match in component.outputs(r"crop_sizes_(?:(?P<kind>rgb|flow)_)?(?P<h>\d+)x(?P<w>\d+)"):
        component.compare(match[0], crop_sizes(int(match["h"]), int(match["w"]), ratios[match["kind"] or ""]), **EXACT)
    for match in component.outputs(r"fix_offsets_(?P<h>\d+)x(?P<w>\d+)"):
        network = int(component.number(r"offsets for (?:a )?(\d+)", 224))
        component.compare(match[0], crop_offsets(int(match["h"]), int(match["w"]), (network, network)), **EXACT)
    for match in component.outputs(r"msc_(?P<kind>rgb|flow)_seed(?P<seed>\d+)"):
        clip, random = clips[match["kind"]], Random(int(match["seed"]))
        listed = re.search(rf"{match[0]} was made with the (\w+) ratio list", component.text)
        chosen = ratios[listed[1].lower()] if listed else ratios[match["kind"]]
        component.compare(match[0], multi_scale_crop(clip, side, random, chosen), **LEVEL)
    for match in component.outputs(r"norm_(?P<kind>rgb|flow)"):
        mean, std = (MEAN, STD) if match["kind"] == "rgb" else (FLOW_MEAN, FLOW_STD)
        component.compare(match[0], normalised(clips[match["kind"]], mean, std), rtol=0.0, atol=1e-4)
    for match in component.outputs(r"[hv]flip(?:_seed(?P<seed>\d+)|_draw)"):
        random = Random(int(match["seed"] or 0))
        component.compare(match[0], [mirrors(random) for _ in range(component[match[0]].size)], **EXACT)
    for match in component.outputs(r"rsc_(?P<kind>rgb|flow)_seed(?P<seed>\d+)"):
        component.compare(match[0], random_sized_crop(clips[match["kind"]], side, Random(int(match["seed"]))), **LEVEL)
