"""The scene of the demo set: an articulated figure makes one of eight motions before a camera.

The classes are four pairs of motions in which each is the other played backwards, so no single frame, no background and
no clothing tells the class: only the order of the poses does. The skeleton is clean; depth sees the figure without
texture; the camera sees it in random clothes before a patterned wall, with other things moving and the light changing.

Axes are those of the camera: x to the right of the image, y up, z away from the camera, in metres. Joints come in the
order of Kinect v1 (the order of UTD-MHAD), "left" on the left of the image as that set has it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vidistill.core.seeds import generator

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]

CLASSES = (
    "circle_clockwise",
    "circle_counter_clockwise",
    "lower",
    "pull",
    "push",
    "raise",
    "swipe_left",
    "swipe_right",
)
JOINTS = (
    *("head", "shoulder_center", "spine", "hip_center"),
    *("left_shoulder", "left_elbow", "left_wrist", "left_hand"),
    *("right_shoulder", "right_elbow", "right_wrist", "right_hand"),
    *("left_hip", "left_knee", "left_ankle", "left_foot"),
    *("right_hip", "right_knee", "right_ankle", "right_foot"),
)
AUDIO_RATE = 16000
_LIFT = 70.0
"""How much lighter (0..255) than the background the clothes are, on average."""
_SKIN = (225.0, 180.0, 150.0)
_UPPER_ARM, _FOREARM, _HAND = 0.29, 0.26, 0.08
_TORSO = {0: (0.0, 0.70, 0.0), 1: (0.0, 0.50, 0.0), 2: (0.0, 0.12, 0.0), 3: (0.0, 0.0, 0.0)}
_SHOULDER, _HIP = (0.19, 0.45, 0.0), (0.09, -0.05, 0.0)
_BONES = (
    *((3, 2, 0.14, 0), (2, 1, 0.15, 0), (4, 8, 0.07, 0), (1, 0, 0.05, 1)),
    *((4, 5, 0.05, 2), (5, 6, 0.045, 3), (6, 7, 0.045, 4), (8, 9, 0.05, 2), (9, 10, 0.045, 3), (10, 11, 0.045, 4)),
    *((12, 13, 0.07, 5), (13, 14, 0.055, 5), (14, 15, 0.04, 6)),
    *((16, 17, 0.07, 5), (17, 18, 0.055, 5), (18, 19, 0.04, 6)),
)
"""(joint, joint, radius in metres, part); bones of one part share a colour."""


@dataclass(frozen=True)
class Scene:
    """One clip before it is written.

    `joints` (T, 20, 3) are the true positions in metres; `measured` the same as float32 with a sensor's error.
    `hand` (T, 3) is the moving hand relative to its shoulder. `fps` is the clip's frame rate.
    """

    fps: int
    joints: Floats
    measured: NDArray[np.float32]
    hand: Floats

    def __len__(self) -> int:
        return len(self.joints)


def make_scene(seed: int, clip: str, label: str) -> Scene:
    """The figure's motion; depends on (seed, clip, label) alone."""
    random = generator(seed, "synthetic", "scene", clip)
    frames, fps = int(random.integers(24, 33)), int(random.integers(15, 26))
    side = int(random.integers(2))
    target = _hand_path(random, label, frames, side)
    body = _body(random, frames, side, target)
    placed, facing = _place(random, body, frames)
    noise = random.normal(0.0, 0.008, placed.shape)
    shoulder, hand = (8, 11) if side else (4, 7)
    relative = (placed[:, hand] - placed[:, shoulder]) @ facing
    return Scene(fps, placed, (placed + noise).astype(np.float32), relative)


def _progress(random: np.random.Generator, frames: int) -> Floats:
    """How far the motion has come at each frame, 0 to 1, with a random start, end and ease."""
    start, end = random.uniform(0.0, 0.2), random.uniform(0.8, 1.0)
    linear = np.clip((np.linspace(0.0, 1.0, frames) - start) / (end - start), 0.0, 1.0) ** random.uniform(0.8, 1.25)
    ease = random.uniform(0.0, 1.0)
    return np.asarray(ease * linear * linear * (3.0 - 2.0 * linear) + (1.0 - ease) * linear)


def _hand_path(random: np.random.Generator, label: str, frames: int, side: int) -> Floats:
    """The moving wrist relative to its shoulder in the figure's axes (x right, y up, z forward), (T, 3)."""
    outward = 1.0 if side else -1.0
    centre = np.array([outward * 0.08, -0.05, 0.30]) + random.normal(0.0, [0.06, 0.08, 0.05])
    along = _progress(random, frames)
    reach = random.uniform(0.7, 1.1)
    path = np.zeros((frames, 3))
    if label.startswith("circle"):
        sense = -1.0 if label == "circle_clockwise" else 1.0
        angle = random.uniform(0.0, 2 * np.pi) + sense * 2 * np.pi * random.uniform(0.9, 1.3) * along
        path[:, 0], path[:, 1] = 0.24 * reach * np.cos(angle), 0.24 * reach * np.sin(angle)
    else:
        axis, size, rising = {
            "swipe_right": (0, 0.34, True),
            "swipe_left": (0, 0.34, False),
            "raise": (1, 0.40, True),
            "lower": (1, 0.40, False),
            "push": (2, 0.20, True),
            "pull": (2, 0.20, False),
        }[label]
        path[:, axis] = size * reach * (2.0 * along - 1.0) * (1.0 if rising else -1.0)
        bend = random.normal(0.0, 0.06)
        path[:, (axis + 1) % 3] = bend * (1.0 - (2.0 * along - 1.0) ** 2)
    tilt = cv2.Rodrigues(random.normal(0.0, 0.1, 3))[0]
    return np.asarray(centre + path @ tilt.T + _sway(random, frames, (0.012, 0.012, 0.012)))


def _sway(random: np.random.Generator, frames: int, size: tuple[float, ...]) -> Floats:
    """Slow, smooth, aimless movement, (T, len(size)), of about `size`."""
    time = np.linspace(0.0, 1.0, frames)[:, None]
    turns, phase = random.uniform(0.3, 1.6, (2, len(size))), random.uniform(0.0, 2 * np.pi, (2, len(size)))
    waves = sum(np.sin(2 * np.pi * turns[i] * time + phase[i]) for i in range(2))
    return np.asarray(waves * np.array(size))


def _body(random: np.random.Generator, frames: int, side: int, target: Floats) -> Floats:
    """All joints in the figure's axes (T, 20, 3): one arm follows `target`, the other fidgets, the legs stand."""
    body = np.zeros((frames, 20, 3))
    for joint, position in _TORSO.items():
        body[:, joint] = position
    for first, sign in ((4, -1.0), (8, 1.0)):
        body[:, first] = np.array(_SHOULDER) * (sign, 1.0, 1.0)
    lean = _sway(random, frames, (0.02, 0.0, 0.015))
    body[:, [0, 1, 4, 8]] += lean[:, None]
    idle_rest = np.array([0.14, -0.35, 0.12]) + random.normal(0.0, [0.05, 0.12, 0.08])
    for first, sign in ((4, -1.0), (8, 1.0)):
        if (first == 8) == bool(side):
            wrist = target
        else:
            wrist = idle_rest * (sign, 1.0, 1.0) + _sway(random, frames, (0.05, 0.06, 0.04))
        body[:, first + 1 : first + 4] = _arm(body[:, first], wrist, sign)
    for first, sign in ((12, -1.0), (16, 1.0)):
        hip = np.array(_HIP) * (sign, 1.0, 1.0)
        step = _sway(random, frames, (0.02, 0.0, 0.03))
        for number, (down, out) in enumerate(((0.0, 0.0), (0.43, 0.03), (0.83, 0.04))):
            body[:, first + number] = hip + (sign * out, -down, 0.0) + step * (number / 2.0)
        body[:, first + 3] = body[:, first + 2] + (0.0, -0.05, 0.10)
    return body


def _arm(shoulder: Floats, wrist: Floats, sign: float) -> Floats:
    """Elbow, wrist and hand (T, 3, 3) of an arm that reaches for `wrist` (relative to the shoulder): two-bone IK."""
    distance = np.linalg.norm(wrist, axis=1, keepdims=True)
    straight = wrist / np.maximum(distance, 1e-6)
    distance = np.clip(distance, 0.12, _UPPER_ARM + _FOREARM - 0.005)
    along = (distance**2 + _UPPER_ARM**2 - _FOREARM**2) / (2.0 * distance)
    height = np.sqrt(np.maximum(_UPPER_ARM**2 - along**2, 0.0))
    pole = np.array([0.5 * sign, -1.0, -0.2])
    bend = pole - (straight @ pole)[:, None] * straight
    bend /= np.maximum(np.linalg.norm(bend, axis=1, keepdims=True), 1e-6)
    elbow, end = straight * along + bend * height, straight * distance
    forearm = (end - elbow) / _FOREARM
    return np.stack([elbow, end, end + _HAND * forearm], axis=1) + shoulder[:, None]


def _place(random: np.random.Generator, body: Floats, frames: int) -> tuple[Floats, Floats]:
    """The figure before the camera: scaled, turned, walking a little. Also the rotation (3, 3) figure -> camera."""
    yaw = np.deg2rad(random.uniform(-20.0, 20.0))
    turn = np.array([[np.cos(yaw), 0.0, np.sin(yaw)], [0.0, 1.0, 0.0], [-np.sin(yaw), 0.0, np.cos(yaw)]])
    rotation = np.diag([1.0, 1.0, -1.0]) @ turn
    where = np.array([random.uniform(-0.12, 0.12), random.uniform(-0.5, -0.4), random.uniform(1.9, 2.2)])
    drift = np.linspace(-0.5, 0.5, frames)[:, None] * random.normal(0.0, [0.05, 0.0, 0.05])
    walk = where + drift + _sway(random, frames, (0.025, 0.008, 0.02))
    placed = random.uniform(0.95, 1.05) * body @ rotation.T + walk[:, None]
    return placed, rotation


def render(seed: int, clip: str, scene: Scene, size: tuple[int, int], clutter: float) -> tuple[Bytes, Bytes]:
    """RGB frames (T, H, W, 3) and depth frames (T, H, W); depth is 20..255 for 4000..800 mm, 0 where unknown.

    `clutter` scales everything that hides the figure from the colour camera (0: plain view, 1: the demo's).
    """
    random = generator(seed, "synthetic", "render", clip)
    height, width = size
    bones = _project(scene.joints, size, random.uniform(1.8, 2.1), _sway(random, len(scene), (0.6, 0.4)) * clutter)
    backdrop = _Backdrop(random, len(scene), size, clutter)
    colours = backdrop.limb_colours(random)
    wall = random.uniform(2.9, 4.4)
    rgb, depth = np.empty((len(scene), height, width, 3), np.uint8), np.empty((len(scene), height, width), np.uint8)
    for index in range(len(scene)):
        picture = backdrop.frame(index)
        metres = np.full(size, wall, np.float32)
        for start, end, thickness, part, distance in bones[index]:
            cv2.line(picture, start, end, colours[part], thickness, cv2.LINE_8, 3)
            cv2.line(metres, start, end, distance, thickness, cv2.LINE_8, 3)
        rgb[index] = backdrop.light(index, picture)
        depth[index] = _depth_code(random, metres)
    return rgb, depth


def _depth_code(random: np.random.Generator, metres: NDArray[np.float32]) -> Bytes:
    """Depth in metres as bytes, with a sensor's noise (about 1 cm) and holes."""
    noisy = metres + random.standard_normal(metres.shape, np.float32) * 0.012
    code = np.clip(np.rint(255.0 - (noisy - 0.8) / 3.2 * 235.0), 20, 255).astype(np.uint8)
    code[(noisy > 4.0) | (random.random(metres.shape, np.float32) < 0.01)] = 0
    return code


Bone = tuple[tuple[int, int], tuple[int, int], int, int, float]


def _project(joints: Floats, size: tuple[int, int], zoom: float, shake: Floats) -> list[list[Bone]]:
    """Every bone of every frame as (start, end, thickness, part, distance), far ones first, in eighths of a pixel."""
    focal = zoom * size[0]
    pieces = 2
    frames: list[list[Bone]] = []
    for index, frame in enumerate(joints):
        bones: list[tuple[float, Bone]] = []
        for first, second, radius, part in _BONES:
            points = frame[first] + np.linspace(0.0, 1.0, pieces + 1)[:, None] * (frame[second] - frame[first])
            u = focal * points[:, 0] / points[:, 2] + size[1] / 2 + shake[index, 0]
            v = size[0] * 0.5 - focal * points[:, 1] / points[:, 2] + shake[index, 1]
            pixels = np.rint(np.stack([u, v], axis=1) * 8.0).astype(int)
            for piece in range(pieces):
                middle = float(points[piece : piece + 2, 2].mean())
                thick = max(1, round(2.0 * focal * radius / middle))
                a, b = pixels[piece], pixels[piece + 1]
                bones.append((middle, ((int(a[0]), int(a[1])), (int(b[0]), int(b[1])), thick, part, middle - radius)))
        head = frame[0]
        u, v = focal * head[0] / head[2] + size[1] / 2, size[0] * 0.5 - focal * head[1] / head[2]
        at = (round((u + shake[index, 0]) * 8.0), round((v + shake[index, 1]) * 8.0))
        thick = max(2, round(2.0 * focal * 0.1 / head[2]))
        bones.append((float(head[2]), (at, at, thick, 1, float(head[2]) - 0.1)))
        frames.append([bone for _, bone in sorted(bones, key=lambda item: -item[0])])
    return frames


class _Backdrop:
    """All that the colour camera sees beside the figure: texture, moving things, light, noise."""

    def __init__(self, random: np.random.Generator, frames: int, size: tuple[int, int], clutter: float) -> None:
        self.size, self.clutter = size, clutter
        self.margin = 10
        self.texture = self._texture(random)
        self.pan = np.clip(_sway(random, frames, (0.9, 0.6)) * clutter, -self.margin, self.margin)
        self.gain = 1.0 + _sway(random, frames, (0.05,))[:, 0] * clutter
        self.grain = random.normal(0.0, 5.0 * clutter, (size[0] * 2, size[1] * 2, 3)).astype(np.float32)
        self.grain_at = random.integers(0, [size[0], size[1]], (frames, 2))
        self.movers = [self._mover(random, frames) for _ in range(round(2 * clutter))]

    def _texture(self, random: np.random.Generator) -> NDArray[np.float32]:
        height, width = self.size[0] + 2 * self.margin, self.size[1] + 2 * self.margin
        texture = np.empty((height, width, 3), np.float32)
        texture[:] = random.uniform(70.0, 110.0, 3)
        for cells, strength in ((3, 9.1), (7, 7.0), (16, 5.6), (32, 3.5)):
            noise = random.standard_normal((cells, round(cells * width / height), 3)).astype(np.float32)
            spread = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
            texture += self.clutter * strength * spread
        return texture

    def _mover(self, random: np.random.Generator, frames: int) -> tuple[Floats, Floats, int, tuple[float, ...]]:
        """Something limb-sized that glides behind or before the figure: start and end points (T, 2), width, colour."""
        span = np.array([self.size[1], self.size[0]], float)
        travel = random.normal(0.0, 0.25 * self.size[0], 2)
        path = random.uniform(0.1, 0.9, 2) * span + np.linspace(-0.5, 0.5, frames)[:, None] * travel
        angle = random.uniform(0, 2 * np.pi) + np.linspace(0.0, 1.0, frames) * random.normal(0.0, 1.5)
        length = random.uniform(0.05, 0.25) * self.size[0]
        reach = length * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        colour = tuple(float(c) for c in self.texture.mean((0, 1)) + 0.5 * _LIFT + random.normal(0.0, 40.0, 3))
        return path, path + reach, int(random.integers(2, 6)), colour

    def limb_colours(self, random: np.random.Generator) -> list[tuple[float, ...]]:
        """A colour for each part: clothes a little lighter than the background, skin for the head and the hands."""
        mean = self.texture.mean((0, 1)) + _LIFT
        colours = [tuple(float(c) for c in mean + random.normal(0.0, 25.0 * self.clutter, 3)) for _ in range(7)]
        skin = np.array(_SKIN) * random.uniform(0.8, 1.1)
        colours[1] = colours[4] = tuple(float(c) for c in skin)
        return colours

    def frame(self, index: int) -> NDArray[np.float32]:
        """The picture before the figure is drawn into it, (H, W, 3) float32 that the caller may draw on."""
        right, down = -self.margin - self.pan[index]
        shift = np.array([[1.0, 0.0, right], [0.0, 1.0, down]])
        picture = np.asarray(cv2.warpAffine(self.texture, shift, (self.size[1], self.size[0])), np.float32)
        for start, end, thickness, colour in self.movers[::2]:
            _draw(picture, start[index], end[index], thickness, colour)
        return picture

    def light(self, index: int, picture: NDArray[np.float32]) -> Bytes:
        """What the sensor makes of the drawn picture: things before the figure, flicker, grain, bytes."""
        for start, end, thickness, colour in self.movers[1::2]:
            _draw(picture, start[index], end[index], thickness, colour)
        top, left = self.grain_at[index]
        grain = self.grain[top : top + self.size[0], left : left + self.size[1]]
        return np.asarray(np.clip(picture * self.gain[index] + grain, 0.0, 255.0).astype(np.uint8))


def _draw(picture: NDArray[np.float32], start: Floats, end: Floats, width: int, colour: tuple[float, ...]) -> None:
    a, b = np.rint(start * 8.0).astype(int), np.rint(end * 8.0).astype(int)
    cv2.line(picture, (int(a[0]), int(a[1])), (int(b[0]), int(b[1])), colour, width, cv2.LINE_8, 3)


def make_sound(seed: int, clip: str, scene: Scene) -> NDArray[np.float32]:
    """The figure plays a theremin: loudness follows the hand's speed, pitch its height. Mono in [-1, 1] at 16 kHz."""
    random = generator(seed, "synthetic", "sound", clip)
    count = round(len(scene) / scene.fps * AUDIO_RATE)
    speed = np.linalg.norm(np.gradient(scene.hand, axis=0), axis=1) * scene.fps
    at = np.linspace(0.0, len(scene) - 1.0, count)
    loudness = np.interp(at, np.arange(len(scene)), np.clip(speed / 1.0, 0.0, 1.0))
    octave = np.interp(at, np.arange(len(scene)), np.clip(scene.hand[:, 1] / 0.45, -1.2, 1.2))
    frequency = random.uniform(500.0, 700.0) * 2.0**octave
    phase = 2.0 * np.pi * np.cumsum(frequency) / AUDIO_RATE
    tone = np.sin(phase) + 0.3 * np.sin(2.0 * phase)
    noise = random.normal(0.0, random.uniform(0.01, 0.06), count)
    return np.asarray(np.clip(0.45 * loudness * tone + noise, -1.0, 1.0), np.float32)
