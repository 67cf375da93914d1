"""Checks of the ensemble system's layout teacher: its network, the repair of boxes, and detections as slots.

Weights pass through the key map that `vidistill import --published stlt` uses.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import fill
import numpy as np
import torch
from components import Component, checks

from vidistill.core.types import Clip, View
from vidistill.data.formats.something_something import template_class
from vidistill.data.sampling import uniform_indices
from vidistill.modalities.boxes import Boxes, BoxesSource
from vidistill.modalities.layout import CLASS, COLUMNS, SCORE, SIDE, STATE, fix_box
from vidistill.models import Network, build_network
from vidistill.models.published import load_published

CLASSIFIER = re.compile(r"classifiers\.(\w+)\.weight")
LAYER = re.compile(r"temporal_transformer\.(layout_embedding\.)?transformer\.layers\.(\d+)\.linear1\.weight")
RATE = 30.0


def built(component: Component, frames: int, slots: int) -> Network:
    """Our network of the published shapes, filled with the published weights."""
    shapes: dict[str, list[int]] = component.meta["state"]
    layers = [match for match in map(LAYER.fullmatch, shapes) if match]
    temporal, spatial = ({int(m[2]) for m in layers if bool(m[1]) == inner} for inner in (False, True))
    classes = {match[1].lower(): shapes[match[0]][0] for match in map(CLASSIFIER.fullmatch, shapes) if match}
    options = {
        "width": shapes["temporal_transformer.cls_token"][-1],
        "feedforward": shapes[layers[0][0]][0],
        "heads": int(component.number(r"(\d+) heads", 8)),
        "spatial_layers": len(spatial),
        "temporal_layers": len(temporal),
    }
    with torch.device("meta"):
        network = build_network("stlt", (frames, slots * COLUMNS), classes, options).eval()
    values = {key: torch.from_numpy(np.asarray(fill.value(key, tuple(shape)))) for key, shape in shapes.items()}
    network = network.to_empty(device="cpu")
    load_published(network, "stlt", values)
    return network


@checks("ensemble/stlt*")
def check_network(component: Component) -> None:
    columns = [component["in_bboxes"]]
    columns += [component[f"in_{name}"][..., None] for name in ("scores", "class_labels", "sides", "states")]
    slots = torch.from_numpy(np.concatenate(columns, -1).astype(np.float32))
    np.testing.assert_array_equal(component["in_mask"].astype(bool), (slots[..., CLASS] == 0).numpy())
    network = built(component, slots.shape[1], slots.shape[2])
    with torch.no_grad():
        outputs = network(slots.flatten(2), features=("frames",))
        embedded = network.backbone.embedding(slots)
    for match in component.outputs(r"embeddings_frame(\d+)"):
        frame = int(match[1])
        component.compare(match[0], embedded[:, frame : frame + 1])
    component.compare("out_spatial", outputs.features["frames"].transpose(1, 2))
    component.compare("out_temporal", outputs.embedding)
    for head, logits in outputs.logits.items():
        component.compare(f"out_{head.upper()}", logits)


@checks("ensemble/fix_box*")
def check_repair(component: Component) -> None:
    width, height = (int(component.number(rf"\b{side}=(\d+)")) for side in "wh")
    fixed = fix_box(component["in_boxes"], width, height)
    component.compare("out_boxes", fixed)
    size = np.array([width, height, width, height], np.float64)
    # "exact" is meant of float32 numbers: what is stored.
    component.compare("out_boxes_normalised", (fixed / size).astype(np.float32))


@checks("ensemble/layout_dataset*")
def check_detections(component: Component) -> None:
    name = component.name.rsplit("/", 1)[-1]
    file = next(component.folder.glob(f"{component.name}_annotation*.json"), None)
    file = file or next(component.folder.glob("ensemble/layout_dataset_annotation*.json"))
    entry = json.loads(Path(file).read_text())[0]
    frames, slots = component["out_class_labels"].shape
    indices = uniform_indices(len(entry["frames"]), frames)[0]
    component.compare("out_indices", indices)
    size = tuple(int(side) for side in component["in_video_wh"][::-1])
    options = BoxesSource(count=slots, frame_size=size, variant="released", rate=RATE)
    clip = Clip(name, "test", {}, {})
    signal = Boxes.load(Path(file), entry["id"], clip, options)
    encoding = Boxes(frames=frames, count=slots, kind="layout", follow=False)
    encoded = encoding.encode(signal, View(name, 0, indices / RATE)).unflatten(1, (slots, COLUMNS))
    component.compare("out_bboxes", encoded[..., :4])
    for output, column in (("scores", SCORE), ("class_labels", CLASS), ("sides", SIDE), ("states", STATE)):
        component.compare(f"out_{output}", encoded[..., column])
    component.compare("out_src_key_padding_mask_boxes", encoded[..., CLASS] == 0)
    labels = json.loads(re.search(r"labels file (\{.*?\})", component.text)[1])
    component.compare("out_label", int(labels[template_class(entry["template"])]))
