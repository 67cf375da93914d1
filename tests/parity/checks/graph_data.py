"""Checks of the graph-distillation system's data: lists, sampling, raw skeletons, pixels, published transforms."""

from __future__ import annotations

import random
import re
import tempfile
from pathlib import Path

import numpy as np
import torch
from components import Component, checks
from PIL import Image

from vidistill.core.types import Clip, Signal
from vidistill.data.formats.ntu_rgbd import oversampled, parse_name, subsampled, trains
from vidistill.data.formats.pku_mmd import read_labels, split_names, thinned
from vidistill.data.sampling import grid_indices, step_indices, step_targets
from vidistill.modalities.depth import Depth, DepthSource
from vidistill.modalities.depth_holes import fill_holes
from vidistill.modalities.flow import Flow, FlowSource
from vidistill.modalities.flow_picture import flow_picture
from vidistill.modalities.joints import joint_distances, joint_vectors, mirrored
from vidistill.modalities.released_transforms import (
    center_crop,
    normalised,
    random_flip,
    random_sized_crop,
    scale,
)
from vidistill.modalities.rgb import MEAN, STD, Rgb, RgbSource
from vidistill.modalities.skeleton import STANDARD, Skeleton
from vidistill.modalities.skeleton_files import ntu_frames, read_skeleton_file
from vidistill.modalities.skeleton_layouts import get_layout

DEPTH_LEVELS = (4084.1213735 / 65280, 1008.31271366 / 65280)
NORMAL = {
    "rgb": (MEAN, STD),
    "flow": ((0.5, 0.5), (1 / 255, 1 / 255)),
    "depth": ((DEPTH_LEVELS[0],), (DEPTH_LEVELS[1],)),
}


@checks("graph/dataset_lists*")
def check_lists(component: Component) -> None:
    meta = component.meta
    for key, expected in meta["expected"].items():
        protocol, part, *rest = key.split(" ")[0].split("/")
        if protocol == "pku":
            names = split_names(meta["pku_split"], "split file", "released")[part]
            there = sorted(set(names) & set(meta["pku_present"]))
            rate = int(rest[0].partition("=")[2])
            assert (thinned(there, rate) if part == "train" else there) == expected, key
            continue
        option = dict(item.split("=") for item in rest)
        names = [
            name
            for name in sorted(meta["names"])
            if trains(parse_name(name), protocol.replace("-", "_")) == (part == "train")
        ]
        if int(option["subsample"]):
            names = subsampled(names, int(option["subsample"]), "released")
        elif part == "train" and option["has_skel"] == "True":
            names = oversampled(names)
        ours = [[name, str(parse_name(name).action - 1)] for name in names]
        if "first two classes" in key:
            ours = [row for row in ours if row[1] in "01"]
        assert ours == expected, key
    for match in component.outputs(r".*label"):
        rows = component[match[0]].astype(int)
        text = "".join(",".join(map(str, row)) + "\n" for row in rows)
        component.compare(match[0], np.array(read_labels(text, "labels")))


class PublishedRandom:
    """The published code's random streams behind the calls that ours makes of a NumPy generator."""

    def __init__(self, seed: int) -> None:
        self.places = np.random.RandomState(seed)
        self.starts = random.Random(seed)

    def integers(self, low, high, size=None, endpoint=False):
        return self.starts.randint(low, high) if endpoint else self.places.randint(low, high, size)


@checks("graph/sampling_ntu*")
def check_trimmed_sampling(component: Component) -> None:
    seed = int(component.number(r"seed\((\d+)\)"))
    for number, case in enumerate(component.meta["cases"]):
        drawn = case["split"] == "train"
        clips = case["n_samples"] if case["split"] in ("train", "val", "test") else None
        ours = grid_indices(
            case["n_jpg"],
            case["n_frames"],
            case["downsample"],
            clips,
            generator=PublishedRandom(seed) if drawn else None,
            variant="released",
        )
        if (case["n_jpg"] - 1) // case["downsample"] < case["n_frames"]:
            # A short video has one place; the published code repeats it also where every place is asked for.
            ours = np.repeat(ours[:1], case["n_samples"], 0)
        component.compare(f"out_{number}", ours)


@checks("graph/sampling_pku*")
def check_untrimmed_sampling(component: Component) -> None:
    seed = int(component.number(r"seed\((\d+)\)"))
    labels, starts, ends = component["in_label"].T[:3]
    for number, case in enumerate(component.meta["cases"]):
        drawn = case["mode"] == "train"
        indices = step_indices(
            case["n_jpg"],
            case["n_frames"],
            case["downsample"],
            case["step_size"],
            case["timestep"] if drawn else None,
            generator=PublishedRandom(seed) if drawn else None,
            variant="released",
        )
        component.compare(f"out_ids_{number}", indices)
        targets = step_targets(indices[:, 0], indices[:, -1], starts, ends, labels.astype(np.int64), variant="released")
        component.compare(f"out_target_{number}", targets)


@checks("graph/skeleton_read*")
def check_skeleton_files(component: Component) -> None:
    files = {re.match(r"ntu|pku|cad", name)[0]: (name, text) for name, text in component.meta["files"].items()}
    with tempfile.TemporaryDirectory() as folder:
        frames: dict[str, list[np.ndarray]] = {}
        for dataset, (name, text) in files.items():
            path = Path(folder) / name
            path.write_text(text)
            points = read_skeleton_file(path)
            if dataset == "ntu":
                frames[dataset] = [
                    np.array([joints for _, joints in frame]) for frame in ntu_frames(text.splitlines(), name)
                ]
                bodies = max(map(len, frames[dataset]))
                for ours, frame in zip(points, frames[dataset], strict=True):
                    if bodies <= 2:
                        assert len(ours[np.isfinite(ours).all((1, 2))]) == len(frame)
            else:
                # The first person is published as zeros where nobody is there; a second one is left out.
                frames[dataset] = [
                    np.concatenate((np.nan_to_num(ours[:1]), ours[1:][np.isfinite(ours[1:]).all((1, 2))]))
                    for ours in points
                ]
    for match in component.outputs(r"(?P<dataset>ntu|pku|cad)[a-z0-9]*_frame(?P<frame>\d+)"):
        ours = frames[match["dataset"]][int(match["frame"])]
        component.compare(match[0], ours if ours.size else ours.reshape(component[match[0]].shape))


@checks("graph/skeleton_geometry*")
def check_skeleton_geometry(component: Component) -> None:
    layout = get_layout("cad15")
    cad = torch.from_numpy(component["in_cad"].astype(np.float32))
    component.compare("out_cad_flip", mirrored(cad, layout) * torch.tensor([-1.0, 1.0, 1.0]))
    for given, expected in (("in_one", "out_pad"), ("in_two", "out_pad_two")):
        stored = component[given].astype(np.float32)
        encoding = Skeleton(frames=len(stored), joints="kinect25", persons=2)
        points, _ = encoding._points(Signal(stored, 30.0), np.arange(len(stored)), get_layout("kinect25"))
        component.compare(expected, points.view(len(stored), 2, 25, 3))
    # Informative: the published extractor pairs eleven joints of the first person, each also with itself.
    taken = np.array([int(joint) - 1 for joint in ["1", "4", "6", "8", "10", "12", "14", "16", "18", "20", "21"]])
    points = torch.from_numpy(component["in_two"][:, 0, taken].astype(np.float32))
    count = len(taken)
    distances, vectors = torch.zeros(len(points), count, count), torch.zeros(len(points), count, count, 3)
    upper = torch.triu_indices(count, count, offset=1)
    distances[:, *upper] = joint_distances(points)
    vectors[:, *upper] = joint_vectors(points).view(len(points), -1, 3)
    both = torch.triu_indices(count, count)
    component.compare("out_extract_jjd", distances[:, *both])
    component.compare("out_extract_jjv", vectors[:, *both])


@checks("graph/pixels_decode*")
def check_pixels(component: Component) -> None:
    clip = Clip("a", "train", {}, {})
    with tempfile.TemporaryDirectory() as name:
        for kind, array in (
            ("depth", component["in_depth16"].astype(np.uint16)),
            ("flow", component["in_flow_rgb"].astype(np.uint8)),
        ):
            folder = Path(name) / kind
            folder.mkdir()
            Image.fromarray(array).save(folder / "Frame-00000001.png")
        depth = Depth.load(Path(name) / "depth", None, clip, DepthSource(coding="released", short_side=None))
        flow = Flow.load(Path(name) / "flow", None, clip, FlowSource(zero=0.0, short_side=None))
        picture = Rgb.load(Path(name) / "flow", None, clip, RgbSource(short_side=None))
    component.compare("out_depth8", depth.values[0])
    component.compare("out_flow", flow.values[0])
    component.compare("out_rgb", picture.values[0])


@checks("graph/depth_inpaint*")
def check_hole_filling(component: Component) -> None:
    threshold = component.number(r"valid = value > (\d+)", 1)
    depth, unique = component["in_depth"], component["in_unique_mask"] == 1
    ours = fill_holes(depth[None], depth[None] > threshold)[0]
    # Ties between equally near neighbours are decided by chance in both.
    component.compare("out_depth", np.where(unique, ours, component["out_depth"]))


@checks("graph/flow_visualisation*")
def check_flow_picture(component: Component) -> None:
    ours = flow_picture(component["in_flow"], variant="released")
    component.compare("out_bgr", ours[..., ::-1].astype(np.float32))


@checks("graph/transforms*")
def check_transforms(component: Component) -> None:
    short = int(component.number(r"Scale short side (\d+)"))
    size = int(component.number(r"CenterCrop (\d+)"))
    seed = int(component.number(r"train uses python random.seed\((\d+)\)"))
    for match in component.outputs(r"(?P<part>test|train)_(?P<kind>rgb|flow|depth)"):
        kind, video = match["kind"], component[f"in_{match['kind']}"]
        if match["part"] == "test":
            ours = center_crop(scale(video, short), size)
        else:
            stream = random.Random(seed)
            ours = random_sized_crop(video, size, stream, flow=kind == "flow")
            ours = random_flip(ours, stream, flow=kind == "flow")
        component.compare(match[0], normalised(ours, *NORMAL[kind]))
    flip_seed = int(component.number(r"out_flip_flow is with random.seed\((\d+)\)"))
    component.compare("out_flip_flow", random_flip(component["in_flow"], random.Random(flip_seed), flow=True))
    component.compare("out_scale_flow_pixels", scale(component["in_flow"], short, flow=True))
    portrait = int(component.number(r"portrait_depth = Scale\((\d+)\)"))
    component.compare("out_scale_portrait_depth", scale(component["in_depth"].swapaxes(-3, -2), portrait))
    mean, std = STANDARD["jjd"]
    component.compare("out_skel_jjd", (component["in_skel"] - mean) / std)
    component.compare("out_clip", np.clip(component["in_skel"], -1, 1))
    side = int(component.number(r"out_avgpool = (\d+) x", 4))
    frames = torch.from_numpy(np.moveaxis(component["in_rgb"].astype(np.float32), -1, -3))
    pooled = torch.nn.functional.avg_pool2d(frames.flatten(0, -4), side)
    component.compare("out_avgpool", pooled.view(*frames.shape[:-2], *pooled.shape[-2:]))
