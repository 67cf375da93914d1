"""Checks of the adaptive system's data: frame sampling, spatial transforms, lists of frame folders."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np
from components import Component, checks
from PIL import Image

from vidistill.data.formats.frame_lists import read_frame_list, read_frame_lists
from vidistill.modalities.released_transforms import (
    CORNERS,
    center_crop,
    corner_crop,
    draw_corner,
    fixed,
    frame_positions,
    multi_scale_corner_crop,
    multi_scale_random_crop,
    normalised,
    random_flip,
    scale,
)
from vidistill.modalities.rgb import MEAN, STD, read_frames

PLACES = {
    "LoopPadding": "begin",
    "TemporalBeginCrop": "begin",
    "TemporalCenterCrop": "center",
    "TemporalRandomCrop": "random",
}


@checks("adaptive/sampling_temporal*")
def check_frame_positions(component: Component) -> None:
    for match in component.outputs(r"(?P<name>[A-Za-z]+)_(?P<size>\d+)"):
        size = int(match["size"])
        rows = np.full((len(component["in_durations"]), size), -1)
        for row, length in zip(rows, component["in_durations"].tolist(), strict=True):
            taken = frame_positions(length, size, PLACES[match["name"]]) + 1
            row[: len(taken)] = taken
        component.compare(match[0], rows)


def published_place() -> tuple[float, float]:
    """SAKD makes its random source anew for each of x and y."""
    return fixed().random(), fixed().random()


@checks("adaptive/transforms_spatial*")
def check_spatial(component: Component) -> None:
    grey, level = (component.meta["tolerance"][kind] for kind in ("uint8", "float"))
    small, cut = (
        int(component.number(pattern, value)) for pattern, value in ((r"Scale\((\d+)\)", 32), (r"size (\d+)", 24))
    )
    cases = component.meta["call"].partition("k=0")[2].partition(")),")[0]
    listed = re.findall(r"\(([\d.]+), ?([a-z]+)\)?", cases)
    factor = component.number(r"MultiScaleRandomCrop\(\[([\d.]+)\]", 0.8)
    scales = tuple(dict.fromkeys(float(number) for number, _ in listed)) or (1.0,)
    if "out_msc_seeded_params" in component:
        number, corner = draw_corner(scales)
        component.compare("out_msc_seeded_params", [number, CORNERS.index(corner)], rtol=1e-6, atol=1e-6)
    for name, ours in (("out_msr_seeded_xy", published_place()), ("out_flip_p", [fixed().random()])):
        if name in component:
            component.compare(name, ours, rtol=1e-6, atol=1e-6)
    for picture in [key.removeprefix("in_") for key in component.arrays if key.startswith("in_")]:
        image = component[f"in_{picture}"]
        scaled = scale(image, small)
        for match in component.outputs(rf"{picture}_(?P<what>\w+)"):
            ours = transformed(match["what"], image, scaled, small, cut, listed, scales, factor)
            bound = level if ours.dtype == np.float32 else grey
            component.compare(match[0], np.asarray(ours, np.float32), rtol=0, atol=bound)


def transformed(what, image, scaled, small, cut, listed, scales, factor) -> np.ndarray:
    """The picture under the transform that the published array is named for."""
    if what == "totensor_norm":
        return normalised(center_crop(scaled, small), MEAN, STD)
    if what == "msc_seeded":
        number, corner = draw_corner(scales)
        return multi_scale_corner_crop(image, number, cut, corner)
    if what == "msr_seeded":
        return multi_scale_random_crop(image, factor, cut, published_place())
    if what == "flip_seeded":
        return random_flip(image, fixed())
    if what == "flip":
        return random_flip(image, Heads())
    if found := re.fullmatch(r"centercrop(\d+)", what):
        return center_crop(image, int(found[1]))
    if found := re.fullmatch(r"msc(\d+)", what):
        number, corner = listed[int(found[1])]
        return multi_scale_corner_crop(image, float(number), cut, corner)
    found = re.fullmatch(r"scale(\d+)(?:_corner_([a-z]+))?", what)
    assert found, what
    resized = scale(image, int(found[1]))
    return corner_crop(resized, small, found[2]) if found[2] else resized


class Heads:
    """A random source that always flips."""

    def random(self) -> float:
        return 0.0


@checks("adaptive/dataset_ucf101*")
def check_frame_list(component: Component) -> None:
    call = component.meta["call"]
    rows = re.findall(r"(\S+_\S+) (\d+) (\d+)(?= \||\.)", call)
    ranges = [(int(a), int(b)) for _, a, b in re.findall(r"[Rr]ow (\d+) has in_frames\[(\d+):(\d+)\]", call)]
    size, side = (int(component.number(p)) for p in (r"LoopPadding\((\d+)\)", r"Scale\((\d+)\)"))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "list.txt").write_text("".join(f"{' '.join(row)}\n" for row in rows))
        (root / "other.txt").write_text("v_Other_g01_c01 1 999\n")
        for (name, _, _), (start, end) in zip(rows, ranges, strict=True):
            place = root / "frames" / name.split("_")[1] / name
            place.mkdir(parents=True)
            for number, frame in enumerate(component["in_frames"][start:end], start=1):
                Image.fromarray(frame).save(place / f"image_{number:05d}.png")
        listed = read_frame_list(root / "list.txt")
        manifest = read_frame_lists(root, train="list.txt", test="other.txt", labels="number")
        for match in component.outputs(r"clip(?P<row>\d+)"):
            clip = manifest.clips[int(match["row"])]
            frames = read_frames(manifest.root / clip.sources["rgb"], None, clip, None).values
            taken = frames[frame_positions(len(frames), size)]
            ours = normalised(center_crop(scale(taken, side), side), MEAN, STD)
            component.compare(match[0], np.moveaxis(ours, 1, 0))
    component.compare("out_targets", [int(clip.labels["action"]) for clip in manifest.clips])
    component.compare("out_indices", [[row.name for row in listed].index(clip.id) for clip in manifest.clips])
