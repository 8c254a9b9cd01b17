"""Pairs of a template crop and a search crop with the search box, each a pure function of (seed, index): a run can resume anywhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from engine.config import ModelConfig
from engine.errors import ConfigError
from engine.training import paint_cpu
from engine.training.looks import draw_looks
from engine.training.recipe import Crop, Ellipse, Layer, Recipe
from engine.training.settings import AugmentConfig
from engine.training.sources import Clip, Pool, Still

Generator = np.random.Generator
Picture = tuple[Sequence[np.ndarray], int]
Painter = Callable[[Sequence[Crop]], Tensor]
_LONG_TRACK = 100  # frames from which on a track counts no more than others


@dataclasses.dataclass(frozen=True)
class Batch:
    """uint8 RGB crops [B, S, S, 3] and the search boxes float32 [B, 4], cx, cy, w, h over the search region's side."""

    template: Tensor
    search: Tensor
    boxes: Tensor


class PairMaker:
    """Draws pairs from a pool. `painter` turns recipes into pictures: on the CPU, unless `paint_device.Painter` is given."""

    def __init__(self, pool: Pool, model: ModelConfig, config: AugmentConfig, seed: int, painter: Painter = paint_cpu.paint):
        self.pool, self.model, self.config, self.seed, self.painter = pool, model, config, seed, painter
        groups: dict[str, list[Still] | list[Clip]] = {**pool.stills, **pool.clips}
        self._names = [name for name in config.groups if name in groups and config.groups[name] > 0]
        if not self._names:
            raise ConfigError(f"augment: none of the groups {sorted(config.groups)} is in the data, which has {sorted(groups)}")
        weights = np.array([config.groups[name] for name in self._names])
        self._weights = weights / weights.sum()
        self._groups = groups
        self._objects = {
            name: [(i, j) for i, still in enumerate(stills) for j in range(len(still.boxes))] for name, stills in pool.stills.items()
        }
        self._by_class: dict[tuple[str, int], list[tuple[int, int]]] = {}
        for name, stills in pool.stills.items():
            for i, j in self._objects[name]:
                if stills[i].classes[j] >= 0:
                    self._by_class.setdefault((name, int(stills[i].classes[j])), []).append((i, j))
        lengths = {name: np.array([min(len(clip.valid), _LONG_TRACK) for clip in clips], float) for name, clips in pool.clips.items()}
        self._clip_weights = {name: counts / counts.sum() for name, counts in lengths.items()}
        self._backgrounds: list[Picture] = [(still.pictures, still.index) for stills in pool.stills.values() for still in stills]
        self._backgrounds += [(clip.frames, i) for clips in pool.clips.values() for clip in clips for i in range(0, len(clip.frames), 40)]

    def batch(self, step: int, size: int, part: slice = slice(None)) -> Batch:
        """The pairs of one step, or a part of them."""
        recipes = [self.recipe(step * size + index) for index in range(size)[part]]
        template, search = self.painter([recipe.template for recipe in recipes]), self.painter([recipe.search for recipe in recipes])
        return Batch(template, search, torch.from_numpy(np.stack([recipe.box for recipe in recipes]).astype(np.float32)))

    def recipe(self, index: int) -> Recipe:
        """Pair number `index`. The same for the same seed, whatever was drawn before."""
        rng = np.random.default_rng((self.seed, index))
        name = self._names[rng.choice(len(self._names), p=self._weights)]
        look_alikes: list[tuple[Still, np.ndarray]] = []
        first: Picture
        second: Picture
        if name in self.pool.stills:
            i, j = self._objects[name][rng.integers(len(self._objects[name]))]
            still = self.pool.stills[name][i]
            first = second = (still.pictures, still.index)
            first_box = second_box = still.boxes[j]
            look_alikes = [(still, box) for k, box in enumerate(still.boxes) if k != j]
            for a, b in _pick(self._by_class.get((name, int(still.classes[j])), []), rng, 2):
                look_alikes.append((self.pool.stills[name][a], self.pool.stills[name][a].boxes[b]))
            moving = False
        else:
            clip = self._groups[name][rng.choice(len(self._groups[name]), p=self._clip_weights[name])]
            assert isinstance(clip, Clip)
            valid = clip.valid
            times = clip.times[valid]
            one = int(rng.integers(len(valid)))
            near = np.flatnonzero(np.abs(times - times[one]) <= self.config.max_gap)
            two = int(near[rng.integers(len(near))])
            first, second = (clip.frames, int(valid[one])), (clip.frames, int(valid[two]))
            first_box, second_box = clip.boxes[valid[one]], clip.boxes[valid[two]]
            moving = True
        template = self._template(first, first_box, moving, rng)
        search, box = self._search(second, second_box, moving, look_alikes, rng)
        looks = draw_looks(self.config, self.model.template_size, self.model.search_size, rng)
        if looks[1].flip:
            box = np.array([1 - box[0], *box[1:]])
        return Recipe(Crop(self.model.template_size, template, looks[0]), Crop(self.model.search_size, search, looks[1]), box)

    def _template(self, picture: Picture, box: np.ndarray, moving: bool, rng: Generator) -> tuple[Layer, ...]:
        size, width = self.model.template_size, self.model.template_factor * np.sqrt(box[2] * box[3])
        turn = 0.0 if moving else 0.4 * np.deg2rad(rng.normal(0, self.config.rotation))
        layer = _layer(picture, linear_map(size / width, turn, 0.0), box[:2] + box[2:] / 2, size)
        return self._fill(layer, size, rng) if rng.random() < self.config.fill else (layer,)

    def _search(
        self, picture: Picture, box: np.ndarray, moving: bool, look_alikes: list[tuple[Still, np.ndarray]], rng: Generator
    ) -> tuple[tuple[Layer, ...], np.ndarray]:
        config, size = self.config, self.model.search_size
        target = np.sqrt(box[2] * box[3])
        jittered = target * np.exp(np.clip(rng.normal(0, config.scale_jitter), -1.0, 1.0))
        turn = 0.0 if moving else np.deg2rad(rng.normal(0, config.rotation))
        stretch = 0.0 if moving else rng.normal(0, config.aspect)
        linear = linear_map(size / (self.model.search_factor * jittered), turn, stretch)
        shift = (rng.random(2) - 0.5) * config.centre_jitter * jittered
        centre = box[:2] + box[2:] / 2
        layer = _layer(picture, linear, centre + shift, size)
        middle = size / 2 - linear @ shift
        rectangle = np.abs(linear) @ (box[2:] / 2)
        ellipse = np.sqrt(linear**2 @ (box[2:] / 2) ** 2)
        half = (rectangle + ellipse) / 2  # a turned object's extent lies between those of its box and of the ellipse in it
        placed = np.concatenate([middle - half, 2 * half])
        layers: tuple[Layer, ...] = (layer,)
        if rng.random() < config.composite:
            layers = (self._background(size, rng), dataclasses.replace(layer, cover=_ellipse(placed, rng)))
        elif rng.random() < config.fill:
            layers = self._fill(layer, size, rng)
        if rng.random() < config.distractor:
            layers += self._distractors(size, placed, look_alikes, rng)
        if rng.random() < config.occlusion:
            layers += (self._occluder(size, placed, rng),)
        return layers, np.concatenate([middle, 2 * half]) / size

    def _fill(self, layer: Layer, size: int, rng: Generator) -> tuple[Layer, ...]:
        """Another picture where the crop reaches beyond `layer`'s."""
        corners = np.array([[0, 0], [0, size - 1], [size - 1, 0], [size - 1, size - 1]], float)
        found = (corners - layer.matrix[:, 2]) @ np.linalg.inv(layer.matrix[:, :2]).T
        if (found >= 0).all() and (found <= np.array(layer.image.shape[1::-1]) - 1).all():
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

    def _distractors(self, size: int, placed: np.ndarray, look_alikes: list[tuple[Still, np.ndarray]], rng: Generator) -> tuple[Layer, ...]:
        """One to three other objects of about the target's size, none over more than a tenth of it."""
        target = np.sqrt(placed[2] * placed[3])
        layers: list[Layer] = []
        for _ in range(int(rng.integers(1, 4))):
            if look_alikes and rng.random() < 0.7:
                other, box = look_alikes[rng.integers(len(look_alikes))]
            elif self._objects:
                name = list(self._objects)[rng.integers(len(self._objects))]
                i, j = self._objects[name][rng.integers(len(self._objects[name]))]
                other, box = self.pool.stills[name][i], self.pool.stills[name][i].boxes[j]
            else:
                break
            factor = target * np.exp(rng.normal(0, 0.25)) / np.sqrt(box[2] * box[3])
            linear = linear_map(factor, 0.0, 0.0) @ np.diag([rng.choice([-1.0, 1.0]), 1.0])
            extent = box[2:] * factor
            for _ in range(8):
                middle = rng.uniform(0, size, 2)
                spot = np.concatenate([middle - extent / 2, extent])
                if _covered(placed, spot) < 0.1:
                    layer = _place(other.pictures, other.index, other.image, linear, box[:2] + box[2:] / 2, middle)
                    layers.append(dataclasses.replace(layer, cover=_ellipse(spot, rng)))
                    break
        return tuple(layers)

    def _occluder(self, size: int, placed: np.ndarray, rng: Generator) -> Layer:
        """Something over a part of the target, at most about half of it."""
        extent = placed[2:] * rng.uniform(0.3, 0.7, 2)
        middle = placed[:2] + placed[2:] * rng.random(2)
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


def _ellipse(box: np.ndarray, rng: Generator) -> Ellipse:
    return Ellipse(box, float(rng.choice([2.0, 3.0, 6.0])))


def _pick(items: list[tuple[int, int]], rng: Generator, count: int) -> list[tuple[int, int]]:
    return [items[rng.integers(len(items))] for _ in range(count)] if items else []


def _covered(target: np.ndarray, spot: np.ndarray) -> float:
    """The share of `target` that `spot` covers (x, y, w, h each)."""
    meet = np.minimum(target[:2] + target[2:], spot[:2] + spot[2:]) - np.maximum(target[:2], spot[:2])
    return float(np.clip(meet, 0, None).prod() / target[2:].prod())
