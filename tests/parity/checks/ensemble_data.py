"""Checks of the ensemble system's data: HDF5 files, test and training pictures, sound around frames, whole items."""

from __future__ import annotations

import io
import re
import tempfile
from pathlib import Path

import h5py
import numpy as np
import torch
from components import Component, checks
from PIL import Image

from vidistill.core.types import Signal, View
from vidistill.data.decoding import open_frames
from vidistill.data.hdf5_frames import encoded_frames
from vidistill.data.hdf5_signals import read_waveform
from vidistill.data.sampling import dense_indices
from vidistill.modalities.audio import Audio
from vidistill.modalities.audio_windows import centred_windows, released_stretch
from vidistill.modalities.released_ensemble import (
    RESNET_MEAN,
    RESNET_STD,
    SWIN_MEAN,
    SWIN_STD,
    crop_major,
    fixed_crops,
    normalised,
    train_crop,
)

NORMS = {"swin": (SWIN_MEAN, SWIN_STD), "resnet3d": (RESNET_MEAN, RESNET_STD)}


def picture(component: Component, key: str) -> np.ndarray:
    return component[key].astype(np.uint8)


@checks("ensemble/hdf5_packing*")
def check_files(component: Component) -> None:
    files = re.findall(r"\w+\.hdf5", component.text)
    keys = re.findall(r'"/([^"]+)"', component.text)
    assert files and keys, component.text
    for file in files:
        for key in keys:
            path = (component.folder / component.name).parent / file
            with open_frames(path, key) as source:
                component.compare("out_frames", source.read(range(source.frames)))
            component.compare("out_encoded_bytes", [len(image) for image in encoded_frames(path, key)])


@checks("ensemble/video_transforms_test*")
def check_test_pictures(component: Component) -> None:
    for match in component.outputs(r"(?P<name>\w+?)_(?P<crops>\d)crop(?:_norm_(?P<norm>\w+))?"):
        size = component[match[0]].shape[-1]
        ours = fixed_crops(picture(component, f"in_{match['name']}_uint8"), size, int(match["crops"]))
        if match["norm"]:
            ours = normalised(ours, *NORMS[match["norm"]])
        component.compare(match[0], ours if match["crops"] != "1" else ours[0])


@checks("ensemble/video_transforms_train*")
def check_training_picture(component: Component) -> None:
    order = component["in_jitter_order"].astype(int).tolist()
    crop = tuple(component["in_crop"].astype(int).tolist())
    frame = picture(component, "in_frame_uint8")
    short = int(component["in_resize_short_side"][0])
    ours = train_crop(frame, short, crop, order, component["in_jitter"].tolist())
    bound = 1 / 255 if "1/255" in str(component.meta["tolerance"]) else component.tolerance[1]
    component.compare("out_frame", ours, rtol=0, atol=bound + 1e-6)


@checks("ensemble/audio_segments*")
def check_windows(component: Component) -> None:
    wave = torch.from_numpy(component["in_audio"]).reshape(-1)
    for match in component.outputs(r"seg_(?P<case>\d+)"):
        *centres, length = component[f"in_idx_{match['case']}"].astype(int).tolist()
        component.compare(match[0], centred_windows(wave, torch.tensor(centres), length))


def seconds(component: Component, name: str) -> float:
    hours, minutes, rest = re.search(rf"{name} (\d+):(\d+):([\d.]+\d)", component.text).groups()
    return 3600 * int(hours) + 60 * int(minutes) + float(rest)


@checks("ensemble/epic_audio_item*")
def check_sound_item(component: Component) -> None:
    frames, stride, rate, length = (
        component.number(pattern)
        for pattern in (
            r"NUM_FRAMES (\d+)",
            r"STRIDE (\d+)",
            r"waveform (\d+) kHz",
            r"AUDIO_SEGMENT_LENGTH (\d+(?:\.\d+)?)",
        )
    )
    rate = int(rate * 1000)
    video, fps = int(component.number(r"(\d+)-frame action")), component.number(r"\*\d+/(\d+)", 60)
    indices = dense_indices(video, int(frames), int(stride), variant="released")[0]
    component.compare("out_indices", indices)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "audio.hdf5"
        with h5py.File(path, "w") as file:
            file["P01_11"] = component["in_wave"]
        whole = read_waveform(path, "P01_11", rate, rate).values
    heard = released_stretch(whole, seconds(component, "start"), seconds(component, "stop"), rate)
    view = View("P01_11_0", 0, indices / fps)
    for match in component.outputs(r"audio_clip\d+_channel(?P<channel>\d+)"):
        height, columns = component[match[0]].shape[-2:]
        encoding = Audio(
            frames=len(indices),
            mels=128,
            seconds=length,
            columns=columns,
            height=height,
            channels=3,
            layout="frames",
            variant="released",
            mean=0.0,
            std=1.0,
        )
        ours = encoding.encode(Signal(heard, float(rate)), view)
        assert tuple(ours.shape) == encoding.shape
        component.compare(match[0], ours[int(match["channel"])])


@checks("ensemble/epic_video_item*")
def check_video_item(component: Component) -> None:
    frames, stride, clips, crops, start, stop = (
        int(component.number(rf"{name} (\d+)"))
        for name in ("NUM_FRAMES", "STRIDE", "NUM_TEST_CLIPS", "NUM_TEST_CROPS", "start_frame", "stop_frame")
    )
    step = int(component.number(r"rolled by (\d+)\*i columns"))
    first, length = picture(component, "in_frame0_uint8"), stop - start + 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.hdf5"
        with h5py.File(path, "w") as file:
            stored = file.create_dataset("P01_11/P01_11_0", (length,), h5py.vlen_dtype(np.uint8))
            for number in range(length):
                image = io.BytesIO()
                Image.fromarray(np.roll(first, step * number, axis=1)).save(image, "png")
                stored[number] = np.frombuffer(image.getvalue(), np.uint8)
        with open_frames(path, "P01_11/P01_11_0") as source:
            indices = dense_indices(source.frames, frames, stride, clips, variant="released").ravel()
            video = source.read(indices)
    component.compare("out_indices", indices)
    size = component["out_video"].shape[-1]
    component.compare("out_video", crop_major(fixed_crops(video, size, crops), clips))
    # The classes are those of the published row P01_11_0 ("take plate") unless the json says others.
    component.compare("out_labels_noun_verb", [component.number(rf"{name} (\d+)", row) for name, row in LABELS])


LABELS = (("noun_class", 2), ("verb_class", 0))
