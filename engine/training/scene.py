"""What a crop shows: the target's picture placed, turned and bent, and what is laid behind, beside and over it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from engine.config import ModelConfig
from engine.training.recipe import Bend, Ellipse, Layer
from engine.training.settings import AugmentConfig
from engine.training.sources import Pool, Still

Generator = np.random.Generator
Picture = tuple[Sequence[np.ndarray], int]
LookAlikes = Sequence[tuple[Still, np.ndarray]]  # other objects: a picture and a box in it
ABSENT = ("hidden", "beside", "elsewhere")  # how a target can be missing from the search region
_SEEN = 0.4  # least part of a target's width or height that stays in the picture


class Scenes:
    """Lays crops out: pictures as they are, or with things of the pool in them."""

    def __init__(self, pool: Pool, model: ModelConfig, config: AugmentConfig):
        self.model, self.config = model, config
        self._objects = [(still, box) for stills in pool.stills.values() for still in stills for box in still.boxes]
        self._backgrounds: list[Picture] = [(still.pictures, still.index) for stills in pool.stills.values() for still in stills]
        self._backgrounds += [(clip.frames, i) for clips in pool.clips.values() for clip in clips for i in range(0, len(clip.frames), 40)]

    def template(self, picture: Picture, box: np.ndarray, moving: bool, rng: Generator) -> tuple[Layer, ...]:
        """The template crop around `box`."""
        size, width = self.model.template_size, self.model.template_factor * np.sqrt(box[2] * box[3])
        turn = 0.0 if moving else 0.4 * np.deg2rad(rng.normal(0, self.config.rotation))
        layer = _layer(picture, linear_map(size / width, turn, 0.0), box[:2] + box[2:] / 2, size)
        return self._fill(layer, size, rng) if rng.random() < self.config.fill else (layer,)

    def search(
        self, picture: Picture, box: np.ndarray, moving: bool, look_alikes: LookAlikes, rng: Generator, absent: str | None = None
    ) -> tuple[tuple[Layer, ...], np.ndarray]:
        """A search crop and the target's box in it: cx, cy, w, h over its side.

        `absent`: "hidden" puts something over the whole target, "beside" looks where it is not; "elsewhere" says that this is another object.
        """
        config, size = self.config, self.model.search_size
        target = np.sqrt(box[2] * box[3])
        jittered = target * np.exp(np.clip(rng.normal(0, config.scale_jitter), -1.0, 1.0))
        turn = 0.0 if moving else np.deg2rad(rng.normal(0, config.rotation))
        stretch = 0.0 if moving else rng.normal(0, config.aspect)
        linear = linear_map(size / (self.model.search_factor * jittered), turn, stretch)
        shift = (rng.random(2) - 0.5) * config.centre_jitter * jittered
        if absent == "beside":
            shift = -np.linalg.solve(linear, _far(_extent(np.zeros(2), linear, box[2:], None)[2:], size, rng))
        layer = _layer(picture, linear, box[:2] + box[2:] / 2 + shift, size)
        middle = size / 2 - linear @ shift
        if not moving and rng.random() < config.bend:
            layer = dataclasses.replace(layer, bend=_bend(np.sqrt(np.linalg.det(linear)) * target, rng))
        placed = _extent(middle, linear, box[2:], layer.bend)
        window = _window(placed, size, rng) if absent is None and rng.random() < config.leaving else None
        layer = dataclasses.replace(layer, window=window)
        layers: tuple[Layer, ...] = (layer,)
        if absent is None and rng.random() < config.composite:
            layers = (self._background(size, rng), dataclasses.replace(layer, cover=_ellipse(placed, rng)))
        elif rng.random() < config.fill:
            layers = self._fill(layer, size, rng)
        if rng.random() < config.distractor:
            layers += tuple(dataclasses.replace(one, window=window) for one in self._distractors(size, placed, look_alikes, rng))
        if window is not None:
            placed = _clipped(placed, window)
        if absent == "hidden":
            layers += (self._patch(size, placed[:2] + placed[2:] / 2, placed[2:] * rng.uniform(1.5, 2.2, 2), rng),)
        elif rng.random() < config.occlusion:
            middle, extent = placed[:2] + placed[2:] * rng.random(2), placed[2:] * rng.uniform(0.3, 0.7, 2)
            layers += (self._patch(size, middle, extent, rng),)  # over at most about half of the target
        return layers, np.concatenate([placed[:2] + placed[2:] / 2, placed[2:]]) / size

    def _fill(self, layer: Layer, size: int, rng: Generator) -> tuple[Layer, ...]:
        """Another picture where the crop reaches beyond `layer`'s."""
        corners = np.array([[0, 0], [0, size - 1], [size - 1, 0], [size - 1, size - 1]], float)
        found = (corners - layer.matrix[:, 2]) @ np.linalg.inv(layer.matrix[:, :2]).T
        if layer.window is None and (found >= 0).all() and (found <= np.array(layer.image.shape[1::-1]) - 1).all():
            return (layer,)
        return self._background(size, rng), dataclasses.replace(layer, only_inside=True)

    def _background(self, size: int, rng: Generator) -> Layer:
        pictures, index = self._backgrounds[rng.integers(len(self._backgrounds))]
        image = pictures[index]
        side = min(image.shape[:2]) * rng.uniform(0.4, 1.0)
        low = np.array([side / 2, side / 2])
        high = np.array([image.shape[1] - side / 2, image.shape[0] - side / 2])
        return _place(
            pictures, index, image, linear_map(size / side, 0.0, 0.0), rng.uniform(low, np.maximum(high, low)), np.full(2, size / 2)
        )

    def _distractors(self, size: int, placed: np.ndarray, look_alikes: LookAlikes, rng: Generator) -> tuple[Layer, ...]:
        """Other objects of about the target's size, none over more than a tenth of it."""
        target = np.sqrt(placed[2] * placed[3])
        layers: list[Layer] = []
        for _ in range(int(rng.integers(1, self.config.distractors + 1))):
            if look_alikes and rng.random() < 0.7:
                other, box = look_alikes[int(rng.integers(len(look_alikes)))]
            elif self._objects:
                other, box = self._objects[rng.integers(len(self._objects))]
            else:
                break
            factor = target * np.exp(rng.normal(0, 0.25)) / np.sqrt(box[2] * box[3])
            linear = linear_map(factor, 0.0, 0.0) @ np.diag([rng.choice([-1.0, 1.0]), 1.0])
            extent = box[2:] * factor
            for _ in range(8):
                middle = rng.uniform(0, size, 2)
                spot = np.concatenate([middle - extent / 2, extent])
                if share_covered(placed, spot) < 0.1:
                    layer = _place(other.pictures, other.index, other.image, linear, box[:2] + box[2:] / 2, middle)
                    layers.append(dataclasses.replace(layer, cover=_ellipse(spot, rng)))
                    break
        return tuple(layers)

    def _patch(self, size: int, middle: np.ndarray, extent: np.ndarray, rng: Generator) -> Layer:
        """A piece of another picture."""
        spot = np.concatenate([middle - extent / 2, extent])
        return dataclasses.replace(self._background(size, rng), cover=_ellipse(spot, rng))


def linear_map(scale: float, turn: float, stretch: float) -> np.ndarray:
    """Rotation by `turn` (radians) times an area-preserving stretch along x (log) times `scale`, [2, 2]."""
    cosine, sine = np.cos(turn), np.sin(turn)
    return scale * np.array([[cosine, -sine], [sine, cosine]]) @ np.diag([np.exp(stretch / 2), np.exp(-stretch / 2)])


def _layer(picture: Picture, linear: np.ndarray, origin: np.ndarray, size: int) -> Layer:
    """`origin` of the picture at the crop's centre."""
    return _place(*picture, picture[0][picture[1]], linear, origin, np.full(2, size / 2))


def _place(
    pictures: Sequence[np.ndarray], index: int, image: np.ndarray, linear: np.ndarray, origin: np.ndarray, middle: np.ndarray
) -> Layer:
    """`origin` of the picture at `middle` of the crop; both in pixels with pixel centres at 0.5."""
    return Layer(pictures, index, image, np.concatenate([linear, (middle - 0.5 - linear @ (origin - 0.5))[:, None]], 1))


def _far(extent: np.ndarray, size: int, rng: Generator) -> np.ndarray:
    """From the middle of a crop of `size` pixels to the centre of a target, `extent` [2] in the crop, of which it shows nothing."""
    away = rng.uniform(-0.9, 0.9, 2) * size
    axis = int(rng.integers(2))
    away[axis] = rng.choice([-1.0, 1.0]) * (size + 1.2 * extent[axis]) / 2 * rng.uniform(1.0, 1.4)
    return away


def _bend(target: float, rng: Generator) -> Bend:
    """Waves about as long as the target (`target` pixels of the crop), by up to a tenth of it."""
    amount = target * rng.uniform(-0.1, 0.1, 2)
    return Bend(amount, 2 * np.pi / (target * rng.uniform(1.2, 3.0, 2)), rng.uniform(0, 2 * np.pi, 2))


def _extent(middle: np.ndarray, linear: np.ndarray, sides: np.ndarray, bend: Bend | None) -> np.ndarray:
    """x, y, w, h in the crop of an object whose box has these sides in its picture and whose centre is shown at `middle`.

    A turned object's extent lies between those of its box and of the ellipse in it.
    """
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    square = circle / np.abs(circle).max(1, keepdims=True)
    shapes = [middle + (shape * sides / 2) @ linear.T for shape in (circle, square)]
    if bend is not None:
        shapes = [bend.shown(shape - 0.5) + 0.5 for shape in shapes]
    low = np.mean([shape.min(0) for shape in shapes], 0)
    high = np.mean([shape.max(0) for shape in shapes], 0)
    return np.concatenate([low, high - low])


def _window(placed: np.ndarray, size: int, rng: Generator) -> np.ndarray | None:
    """The part of the plane, x1, y1, x2, y2, that the picture fills when one of its borders runs through the target. None if the middle of what
    stays of the target is not in the crop."""
    axis = int(rng.integers(2))
    window = np.array([-np.inf, -np.inf, np.inf, np.inf])
    seen = rng.uniform(_SEEN, 1.0) * placed[2 + axis]
    if rng.random() < 0.5:
        window[axis] = placed[axis] + placed[2 + axis] - seen
    else:
        window[2 + axis] = placed[axis] + seen
    left = _clipped(placed, window)
    middle = left[:2] + left[2:] / 2
    return window if ((middle >= 0) & (middle < size)).all() else None


def _clipped(box: np.ndarray, window: np.ndarray) -> np.ndarray:
    """The part of x, y, w, h in the window."""
    low, high = np.maximum(box[:2], window[:2]), np.minimum(box[:2] + box[2:], window[2:])
    return np.concatenate([low, high - low])


def _ellipse(box: np.ndarray, rng: Generator) -> Ellipse:
    return Ellipse(box, float(rng.choice([2.0, 3.0, 6.0])))


def share_covered(target: np.ndarray, spot: np.ndarray) -> float:
    """The share of `target` that `spot` covers (x, y, w, h each)."""
    meet = np.minimum(target[:2] + target[2:], spot[:2] + spot[2:]) - np.maximum(target[:2], spot[:2])
    return float(np.clip(meet, 0, None).prod() / target[2:].prod())
