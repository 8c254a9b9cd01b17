"""Pairs of a template crop and a search crop with the search box, each a pure function of (seed, index): a run can resume anywhere."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from engine.config import ModelConfig
from engine.errors import ConfigError
from engine.training import augment
from engine.training.sources import Clip, Pool, Still

Generator = np.random.Generator
_LONG_TRACK = 100  # frames from which on a track counts no more than others


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """How pairs are made. Probabilities unless said otherwise; `groups` weighs the data's parts (a missing part counts nothing)."""

    groups: dict[str, float] = dataclasses.field(
        default_factory=lambda: {"coco": 0.4, "imagenet": 0.25, "bsds": 0.08, "video": 0.27, "pseudo": 0.4}
    )
    max_gap: int = 100  # frames between template and search of a clip
    centre_jitter: float = 3.0  # range of the target's place, in target sizes (public code: 3 at 256 px, 4.5 at 384)
    scale_jitter: float = 0.3  # standard deviation of the log of the crop's size
    rotation: float = 6.0  # standard deviation in degrees, stills only
    aspect: float = 0.1  # standard deviation of the log of the aspect ratio, stills only
    flip: float = 0.5  # both crops together
    composite: float = 0.2  # the target moved onto another picture
    fill: float = 0.5  # outside of the picture: another picture instead of black
    distractor: float = 0.5  # other objects pasted beside the target
    occlusion: float = 0.15
    grey: float = 0.08
    low_resolution: float = 0.4
    blur: float = 0.2
    noise: float = 0.1
    colours: float = 0.7  # strength of the colour jitter
    hue: float = 0.2  # all hues turned, both crops together

    def __post_init__(self) -> None:
        for name in ("flip", "composite", "fill", "distractor", "occlusion", "grey", "low_resolution", "blur", "noise", "hue"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"augment: {name} must lie in [0, 1], got {getattr(self, name)!r}")
        if not self.groups or min(self.groups.values()) < 0:
            raise ConfigError(f"augment: groups must name parts of the data with weights of zero or more, got {self.groups!r}")


@dataclasses.dataclass(frozen=True)
class Batch:
    """uint8 RGB crops [B, S, S, 3] and the search boxes [B, 4], cx, cy, w, h over the search region's side."""

    template: np.ndarray
    search: np.ndarray
    boxes: np.ndarray


class PairMaker:
    """Draws pairs from a pool."""

    def __init__(self, pool: Pool, model: ModelConfig, config: AugmentConfig, seed: int):
        self.pool, self.model, self.config, self.seed = pool, model, config, seed
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
        self._backgrounds = [(still.pictures, still.index) for stills in pool.stills.values() for still in stills]
        self._backgrounds += [(clip.frames, i) for clips in pool.clips.values() for clip in clips for i in range(0, len(clip.frames), 40)]

    def batch(self, step: int, size: int, part: slice = slice(None)) -> Batch:
        """The pairs of one step, or a part of them."""
        pairs = [self.pair(step * size + index) for index in range(size)[part]]
        template, search, boxes = (np.stack(part) for part in zip(*pairs, strict=True))
        return Batch(template, search, boxes.astype(np.float32))

    def pair(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pair number `index`: template crop, search crop, box. The same for the same seed, whatever was drawn before."""
        rng = np.random.default_rng((self.seed, index))
        name = self._names[rng.choice(len(self._names), p=self._weights)]
        group = self._groups[name]
        look_alikes: list[tuple[Still, np.ndarray]] = []
        if name in self.pool.stills:
            i, j = self._objects[name][rng.integers(len(self._objects[name]))]
            still = self.pool.stills[name][i]
            first = second = still.image
            first_box = second_box = still.boxes[j]
            look_alikes = [(still, box) for k, box in enumerate(still.boxes) if k != j]
            for a, b in self._pick(self._by_class.get((name, int(still.classes[j])), []), rng, 2):
                look_alikes.append((self.pool.stills[name][a], self.pool.stills[name][a].boxes[b]))
            moving = False
        else:
            clip = group[rng.choice(len(group), p=self._clip_weights[name])]
            assert isinstance(clip, Clip)
            valid = clip.valid
            one = int(rng.integers(len(valid)))
            near = np.flatnonzero(np.abs(valid - valid[one]) <= self.config.max_gap)
            two = int(near[rng.integers(len(near))])
            first, second = clip.frames[valid[one]], clip.frames[valid[two]]
            first_box, second_box = clip.boxes[valid[one]], clip.boxes[valid[two]]
            moving = True
        template = self._template(first, first_box, moving, rng)
        search, box = self._search(second, second_box, moving, look_alikes, rng)
        if rng.random() < self.config.flip:
            template, search = template[:, ::-1], search[:, ::-1]
            box = np.array([1 - box[0], *box[1:]])
        template, search = self._photometric(np.ascontiguousarray(template), np.ascontiguousarray(search), rng)
        return template[..., ::-1], search[..., ::-1], box

    @staticmethod
    def _pick(items: list[tuple[int, int]], rng: Generator, count: int) -> list[tuple[int, int]]:
        return [items[rng.integers(len(items))] for _ in range(count)] if items else []

    def _template(self, image: np.ndarray, box: np.ndarray, moving: bool, rng: Generator) -> np.ndarray:
        size, width = self.model.template_size, self.model.template_factor * np.sqrt(box[2] * box[3])
        turn = 0.0 if moving else 0.4 * np.deg2rad(rng.normal(0, self.config.rotation))
        linear = _linear(size / width, turn, 0.0)
        crop = _warp(image, linear, box[:2] + box[2:] / 2, size)
        if rng.random() < self.config.fill:
            crop = self._fill(crop, image, linear, box[:2] + box[2:] / 2, rng)
        return crop

    def _search(
        self, image: np.ndarray, box: np.ndarray, moving: bool, look_alikes: list[tuple[Still, np.ndarray]], rng: Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        config, size = self.config, self.model.search_size
        target = np.sqrt(box[2] * box[3])
        jittered = target * np.exp(np.clip(rng.normal(0, config.scale_jitter), -1.0, 1.0))
        turn = 0.0 if moving else np.deg2rad(rng.normal(0, config.rotation))
        stretch = 0.0 if moving else rng.normal(0, config.aspect)
        linear = _linear(size / (self.model.search_factor * jittered), turn, stretch)
        shift = (rng.random(2) - 0.5) * config.centre_jitter * jittered
        centre = box[:2] + box[2:] / 2
        origin = centre + shift
        crop = _warp(image, linear, origin, size)
        middle = size / 2 + linear @ (centre - origin)
        rectangle = np.abs(linear) @ (box[2:] / 2)
        ellipse = np.sqrt(linear**2 @ (box[2:] / 2) ** 2)
        half = (rectangle + ellipse) / 2  # a turned object's extent lies between those of its box and of the ellipse in it
        placed = np.concatenate([middle - half, 2 * half])
        if rng.random() < config.composite:
            ground = self._background(size, rng)
            crop = augment.blend(ground, crop, augment.soft_mask(size, placed, rng))
        elif rng.random() < config.fill:
            crop = self._fill(crop, image, linear, origin, rng)
        if rng.random() < config.distractor:
            crop = self._distract(crop, placed, look_alikes, rng)
        if rng.random() < config.occlusion:
            crop = self._occlude(crop, placed, rng)
        return crop, np.concatenate([middle, 2 * half]) / size

    def _fill(self, crop: np.ndarray, image: np.ndarray, linear: np.ndarray, origin: np.ndarray, rng: Generator) -> np.ndarray:
        """Another picture where the crop reaches beyond `image`."""
        size = crop.shape[0]
        inside = _warp(np.full(image.shape[:2], 255, np.uint8), linear, origin, size)
        if inside.min() == 255:
            return crop
        return augment.blend(self._background(size, rng), crop, (inside > 250)[..., None].astype(np.float32))

    def _background(self, size: int, rng: Generator) -> np.ndarray:
        pictures, index = self._backgrounds[rng.integers(len(self._backgrounds))]
        image = pictures[index]
        side = min(image.shape[:2]) * rng.uniform(0.4, 1.0)
        low = np.array([side / 2, side / 2])
        high = np.array([image.shape[1] - side / 2, image.shape[0] - side / 2])
        return _warp(image, _linear(size / side, 0.0, 0.0), rng.uniform(low, np.maximum(high, low)), size)

    def _distract(self, crop: np.ndarray, placed: np.ndarray, look_alikes: list[tuple[Still, np.ndarray]], rng: Generator) -> np.ndarray:
        """One to three other objects of about the target's size, none over more than a tenth of it."""
        size = crop.shape[0]
        target = np.sqrt(placed[2] * placed[3])
        for _ in range(int(rng.integers(1, 4))):
            if look_alikes and rng.random() < 0.7:
                other, box = look_alikes[rng.integers(len(look_alikes))]
            else:
                name = list(self._objects)[rng.integers(len(self._objects))] if self._objects else None
                if name is None:
                    return crop
                i, j = self._objects[name][rng.integers(len(self._objects[name]))]
                other, box = self.pool.stills[name][i], self.pool.stills[name][i].boxes[j]
            factor = target * np.exp(rng.normal(0, 0.25)) / np.sqrt(box[2] * box[3])
            linear = _linear(factor, 0.0, 0.0) @ np.diag([rng.choice([-1.0, 1.0]), 1.0])
            extent = box[2:] * factor
            for _ in range(8):
                middle = rng.uniform(0, size, 2)
                spot = np.concatenate([middle - extent / 2, extent])
                if _covered(placed, spot) < 0.1:
                    pasted = _warp(other.image, linear, box[:2] + box[2:] / 2, size, middle)
                    crop = augment.blend(crop, pasted, augment.soft_mask(size, spot, rng))
                    break
        return crop

    def _occlude(self, crop: np.ndarray, placed: np.ndarray, rng: Generator) -> np.ndarray:
        """Something over a part of the target, at most about half of it."""
        size = crop.shape[0]
        extent = placed[2:] * rng.uniform(0.3, 0.7, 2)
        middle = placed[:2] + placed[2:] * rng.random(2)
        spot = np.concatenate([middle - extent / 2, extent])
        return augment.blend(crop, self._background(size, rng), augment.soft_mask(size, spot, rng))

    def _photometric(self, template: np.ndarray, search: np.ndarray, rng: Generator) -> tuple[np.ndarray, np.ndarray]:
        config = self.config
        if rng.random() < config.hue:
            degrees = rng.normal(0, 40)
            template, search = augment.shift_hue(template, degrees), augment.shift_hue(search, degrees)
        if rng.random() < config.grey:
            template, search = augment.to_grey(template), augment.to_grey(search)
        template = augment.jitter_colours(template, rng, config.colours)
        search = augment.jitter_colours(search, rng, config.colours * (0.4 if rng.random() < 0.6 else 1.0))
        if rng.random() < config.blur:
            search = augment.blur(search, rng)
        if rng.random() < config.blur / 3:
            template = augment.blur(template, rng)
        if rng.random() < config.low_resolution:
            factor = np.exp(rng.uniform(np.log(0.2), 0.0))
            quality = int(rng.integers(35, 96)) if rng.random() < 0.6 else None
            template = augment.lower_resolution(template, factor * np.exp(rng.normal(0, 0.1)), quality)
            search = augment.lower_resolution(search, factor, quality)
        if rng.random() < config.noise:
            template, search = augment.add_noise(template, rng), augment.add_noise(search, rng)
        return template, search


def _linear(scale: float, turn: float, stretch: float) -> np.ndarray:
    """Rotation by `turn` (radians) times an area-preserving stretch along x (log) times `scale`, [2, 2]."""
    cosine, sine = np.cos(turn), np.sin(turn)
    return scale * np.array([[cosine, -sine], [sine, cosine]]) @ np.diag([np.exp(stretch / 2), np.exp(-stretch / 2)])


def _warp(image: np.ndarray, linear: np.ndarray, origin: np.ndarray, size: int, middle: np.ndarray | None = None) -> np.ndarray:
    """The [size, size] crop that shows `origin` of the image at `middle` (default: the centre), black outside. Pixel centres lie at 0.5."""
    to = (np.full(2, size / 2) if middle is None else middle) - 0.5
    matrix = np.concatenate([linear, (to - linear @ (origin - 0.5))[:, None]], 1)
    return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(0, 0, 0))


def _covered(target: np.ndarray, spot: np.ndarray) -> float:
    """The share of `target` that `spot` covers (x, y, w, h each)."""
    meet = np.minimum(target[:2] + target[2:], spot[:2] + spot[2:]) - np.maximum(target[:2], spot[:2])
    return float(np.clip(meet, 0, None).prod() / target[2:].prod())
