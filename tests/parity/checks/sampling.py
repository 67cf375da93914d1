"""Checks of frame sampling."""

from __future__ import annotations

import random

import numpy as np
from components import Component, checks

from vidistill.data.sampling import dense_indices, uniform_indices


@checks("ensemble/samplers_test*")
def check_middle_frames(component: Component) -> None:
    for match in component.outputs(r"(?P<kind>uniform|dense)_(?P<case>\d+)"):
        length, frames, stride, clips = (int(value) for value in component["in_cases"][int(match["case"])])
        if match["kind"] == "uniform":
            ours = uniform_indices(length, frames, clips, variant="released")
        else:
            ours = dense_indices(length, frames, stride, clips, variant="released")
        component.compare(match[0], ours.ravel())
    frames = int(component.number(r"out_stlt_j uses NUM_FRAMES=(\d+)", 16))
    for match in component.outputs(r"stlt_(?P<case>\d+)"):
        length = int(component["in_stlt_lengths"][int(match["case"])])
        component.compare(match[0], uniform_indices(length, frames).ravel())


class PublishedRandom:
    """The published code's random streams behind the calls that ours makes of a NumPy generator."""

    def __init__(self, seed: int) -> None:
        self.segments = random.Random(seed)
        self.offsets = np.random.RandomState(seed)

    def integers(self, low, high=None, size=None, endpoint=False):
        if endpoint:  # uniform: one draw a segment, both ends included
            return np.array([self.segments.randint(int(a), int(b)) for a, b in zip(low, high, strict=True)])
        return self.offsets.randint(low, size=size)


@checks("ensemble/samplers_train*")
def check_drawn_frames(component: Component) -> None:
    seed = int(component.number(r"seed\((\d+)\)"))
    for match in component.outputs(r"(?P<kind>uniform|dense)_(?P<case>\d+)"):
        length, frames, stride, clips = (int(value) for value in component["in_cases"][int(match["case"])])
        stream = PublishedRandom(seed)
        if match["kind"] == "uniform":
            ours = uniform_indices(length, frames, clips, generator=stream, variant="released")
        else:
            ours = dense_indices(length, frames, stride, clips, generator=stream, variant="released")
        component.compare(match[0], ours.ravel())
