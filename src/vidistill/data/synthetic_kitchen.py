"""What a generated kitchen video shows and sounds like: a hand does something to a thing, seen from above.

No signal tells everything. In the picture two nouns share each colour and the light, the wall and passing things
change; the sound gives each noun its pitch but two verbs share each rhythm; boxes know where hand and thing are and
how large, not what colour they have, and now and then they are missed or invented.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from vidistill.core.seeds import generator

RATE = 12
"""Frames a second."""
SIZE = (48, 64)
"""Height and width in pixels."""
AUDIO_RATE = 16_000
MOST = 8
"""There are so many motions and looks."""

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]
Box = dict[str, Any]
"""As published: `box` (x1, y1, x2, y2 as fractions), `category`, `score`; hands also have `side` and `state`."""

_COLOURS = ((200, 60, 50), (60, 170, 70), (60, 90, 200), (210, 190, 60))
_SKIN = (215, 170, 140)
_SIZES = (0.18, 0.26, 0.34)
_RHYTHMS = (1.5, 3.0, 5.5, 9.0)
"""Knocks a second."""
_PITCH = 300.0
"""Hz of the lowest noun."""
_NOISE = 24
"""Pictures of grain, used at random."""


class Happening(NamedTuple):
    """One action: seconds of its video, and the places of its verb and noun among those shown, below `MOST`."""

    start: float
    end: float
    verb: int
    noun: int


class Video(NamedTuple):
    """Frames (T, H, W, 3), boxes by frame of an action, and the sound (samples,) at `AUDIO_RATE`."""

    frames: Bytes
    boxes: dict[int, list[Box]]
    sound: NDArray[np.float32]


class _Places(NamedTuple):
    """Where hand and thing are in the frames of an action (T, 2) as fractions, and whether they touch (T,)."""

    hand: Floats
    thing: Floats
    touch: NDArray[np.bool_]


def film(seed: int, name: str, happenings: Sequence[Happening]) -> Video:
    """The video of some actions, in order of time; depends on the arguments alone."""
    random = generator(seed, "synthetic epic", name)
    count = int(np.ceil((happenings[-1].end + 0.3) * RATE))
    frames = _kitchen(random, count)
    sound = random.normal(0.0, 0.01, round(count / RATE * AUDIO_RATE)).astype(np.float32)
    boxes: dict[int, list[Box]] = {}
    for each in happenings:
        first, last = int(np.ceil(each.start * RATE)), int(np.ceil(each.end * RATE))
        places = _move(random, each.verb, (np.arange(first, last) / RATE - each.start) / (each.end - each.start))
        size = _SIZES[each.noun % 3]
        side = int(random.integers(2))
        for number in range(first, last):
            hand, thing = places.hand[number - first], places.thing[number - first]
            _draw(frames[number], hand, thing, each.noun, size)
            boxes[number] = _detected(random, hand, thing, size, side, bool(places.touch[number - first]))
        _knock(random, sound, each)
    grain = random.normal(0.0, 12.0, (_NOISE, *SIZE, 3)).astype(np.float32)
    light = 1.0 + 0.12 * np.sin(np.arange(count) / RATE * random.uniform(0.5, 2.0) + random.uniform(0, 6))
    for number in boxes:  # grain is what costs space, and nobody looks at the others
        grained = frames[number] * np.float32(light[number]) + grain[random.integers(_NOISE)]
        frames[number] = np.clip(grained, 0, 255).astype(np.uint8)
    return Video(frames, boxes, sound)


def _kitchen(random: np.random.Generator, count: int) -> Bytes:
    """Empty frames (T, H, W, 3): a patterned worktop over which shadows pass."""
    coarse = (random.uniform(60, 150, (6, 8, 1)) + random.uniform(-20, 20, (6, 8, 3))).astype(np.float32)
    top = cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    frames = np.repeat(np.clip(top, 0, 255).astype(np.uint8)[None], count, 0)
    speed, height = random.uniform(0.1, 0.4), int(random.integers(8, 40))
    for number, picture in enumerate(frames):
        x = int((number / RATE * speed % 1.4 - 0.2) * SIZE[1])
        cv2.circle(picture, (x, height), 5, (70, 60, 60), -1)
    return frames


def _move(random: np.random.Generator, verb: int, part: Floats) -> _Places:
    """Where things are when the `part` (T,) in [0, 1] of an action is over."""
    place = np.array([random.uniform(0.4, 0.6), random.uniform(0.3, 0.45)])
    away = np.array([random.uniform(-0.15, 0.15), 0.45])
    thing = np.repeat(place[None], len(part), 0)
    back = np.abs(2 * part - 1)[:, None]
    hand = thing + away * np.maximum(back, 0.15)
    touch = part >= 0.5
    turn = 2 * np.pi * part * random.uniform(2.5, 3.5)
    if verb == 0:
        thing = np.where(touch[:, None], hand, thing)
    elif verb == 1:
        touch = part < 0.5
        thing = np.where(touch[:, None], hand, thing)
    elif verb == 2:
        touch = np.ones(len(part), np.bool_)
        hand = thing + 0.16 * np.stack((np.cos(turn), np.sin(turn)), 1)
    elif verb in (3, 4):
        touch = np.ones(len(part), np.bool_)
        slide = (part - 0.5) * (0.55 if verb == 3 else -0.55)
        thing = thing + np.stack((slide, np.zeros(len(part))), 1)
        hand = thing + np.array([0.0, 0.1])
    elif verb in (5, 6):
        touch = np.ones(len(part), np.bool_) if verb == 5 else np.sin(2 * turn) < 0
        swing = 0.15 * np.sin(2 * turn)[:, None] * np.array([1.0, 0.0] if verb == 5 else [0.0, 1.0])
        hand = thing + np.array([0.0, 0.12]) + swing
        thing = thing + swing * (verb == 5)
    else:
        touch = np.ones(len(part), np.bool_)
        hand = thing + np.array([0.0, 0.1])
    return _Places(hand, thing, touch)


def _draw(picture: Bytes, hand: Floats, thing: Floats, noun: int, size: float) -> None:
    """Paint a thing and the hand over it."""
    height, width = SIZE
    colour = _COLOURS[noun // 2 % len(_COLOURS)]
    x, y, radius = round(thing[0] * width), round(thing[1] * height), max(round(size * height / 2), 2)
    if noun % 2:
        cv2.rectangle(picture, (x - radius, y - radius), (x + radius, y + radius), colour, -1)
    else:
        cv2.circle(picture, (x, y), radius, colour, -1)
    cv2.ellipse(picture, (round(hand[0] * width), round(hand[1] * height)), (4, 6), 0, 0, 360, _SKIN, -1)


def _detected(
    random: np.random.Generator, hand: Floats, thing: Floats, size: float, side: int, touch: bool
) -> list[Box]:
    """What a detector says of a frame: not quite right, sometimes too little or too much."""
    height, width = SIZE
    ratio = height / width
    jitter = random.normal(0.0, 0.008, 8)
    drawn = random.uniform(0.0, 1.0, 8)
    found: list[Box] = []
    if drawn[0] > 0.05:
        box = np.array([hand[0] - 0.0625, hand[1] - 0.125, hand[0] + 0.0625, hand[1] + 0.125]) + jitter[:4]
        found.append(_box(box, "hand", 0.8 + 0.2 * drawn[1]) | {"side": side, "state": 3 if touch else 0})
    if drawn[2] > 0.1:
        half = size / 2 * np.array([ratio, 1.0])
        box = np.concatenate((thing - half, thing + half)) + jitter[4:]
        found.append(_box(box, "object", 0.6 + 0.4 * drawn[3]))
    if drawn[4] < 0.15:
        corner = drawn[5:7] * 0.8
        found.append(_box(np.concatenate((corner, corner + 0.1 + 0.1 * drawn[7])), "object", 0.2 + 0.3 * drawn[7]))
    return found


def _box(corners: Floats, category: str, score: float) -> Box:
    box = [round(float(corner), 4) for corner in np.clip(corners, 0.0, 1.0)]
    return {"box": box, "category": category, "score": round(float(score), 3)}


def _knock(random: np.random.Generator, sound: NDArray[np.float32], each: Happening) -> None:
    """Add the knocks of an action: their rhythm is the verb's, shared by two; their pitch the noun's."""
    pause = 1.0 / _RHYTHMS[each.verb // 2 % len(_RHYTHMS)]
    pitch = _PITCH * 2.0 ** (each.noun / 2.5) * random.uniform(0.97, 1.03)
    time = np.arange(round(0.25 * AUDIO_RATE)) / AUDIO_RATE
    knock = (0.3 * np.exp(-18.0 * time) * np.sin(2 * np.pi * pitch * time)).astype(np.float32)
    for moment in np.arange(each.start + random.uniform(0.0, 0.1), each.end - 0.05, pause * random.uniform(0.95, 1.05)):
        first = round(moment * AUDIO_RATE)
        last = min(first + len(knock), len(sound), round(each.end * AUDIO_RATE))
        if last > first:
            sound[first:last] += knock[: last - first]
