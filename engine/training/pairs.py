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
from engine.training.recipe import Crop, Recipe
from engine.training.scene import ABSENT, Picture, Scenes, share_covered
from engine.training.settings import AugmentConfig
from engine.training.sources import Clip, Pool, Still, tracks_by_video

Generator = np.random.Generator
Painter = Callable[[Sequence[Crop]], Tensor]
_LONG_TRACK = 100  # frames from which on a track counts no more than others
_TRIES = 8
_SHOWN = 0.3  # of a target: what shows more of it in the same picture is not another object beside it
_REFRAMED_SIDES, _REFRAMED_SHIFT = (0.45, 1.5), 0.2  # another box's sides, and its centre's way from the object's, over the object's sides


@dataclasses.dataclass(frozen=True)
class _Object:
    """An object to follow: where it is seen twice, and what looks like it."""

    first: Picture
    first_box: np.ndarray
    second: Picture
    second_box: np.ndarray
    moving: bool
    look_alikes: list[tuple[Still, np.ndarray]]

    def shares(self, picture: Picture, moving: bool) -> bool:
        """Whether the object may be in `picture`: it is the same one, or both are of one video."""
        return picture[0] is self.first[0] and (moving or picture[1] == self.first[1])


@dataclasses.dataclass(frozen=True)
class Batch:
    """uint8 RGB crops [B, S, S, 3], the target's boxes in them float32 [B, 4], cx, cy, w, h over the crop's side, and whether the target is in
    the search region at all, bool [B]; `boxes` of one that is not says nothing."""

    template: Tensor
    search: Tensor
    boxes: Tensor
    present: Tensor
    template_boxes: Tensor


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
        self._neighbours = tracks_by_video(clip for clips in pool.clips.values() for clip in clips)
        self._scenes = Scenes(pool, model, config)

    def batch(self, step: int, size: int, part: slice = slice(None)) -> Batch:
        """The pairs of one step, or a part of them."""
        recipes = [self.recipe(step * size + index) for index in range(size)[part]]
        template, search = self.painter([recipe.template for recipe in recipes]), self.painter([recipe.search for recipe in recipes])
        boxes = torch.from_numpy(np.stack([(recipe.box, recipe.template_box) for recipe in recipes], 1).astype(np.float32))
        return Batch(template, search, boxes[0], torch.tensor([recipe.present for recipe in recipes]), boxes[1])

    def recipe(self, index: int) -> Recipe:
        """Pair number `index`. The same for the same seed, whatever was drawn before."""
        rng = np.random.default_rng((self.seed, index))
        seen = self._draw(rng)
        if (
            self.config.reframe and rng.random() < self.config.reframe
        ):  # without it: the pairs that a seed gave before there was such a thing
            seen = _reframed(seen, rng)
        absent = str(rng.choice(ABSENT)) if rng.random() < self.config.absent else None
        template = self._scenes.template(seen.first, seen.first_box, seen.moving, rng)
        sides = seen.first_box[2:] / (self.model.template_factor * np.sqrt(seen.first_box[2:].prod()))
        if absent == "elsewhere":
            other = self._other(seen, rng)
            seen, absent = (seen, "beside") if other is None else (other, absent)
        search, box = self._scenes.search(seen.second, seen.second_box, seen.moving, seen.look_alikes, rng, absent)
        looks = draw_looks(self.config, self.model, rng)
        if looks[1].flip:
            box = np.array([1 - box[0], *box[1:]])
        return Recipe(
            Crop(self.model.template_size, template, looks[0]),
            Crop(self.model.search_size, search, looks[1]),
            *(box, np.array([0.5, 0.5, *sides]), absent is None),
        )

    def _other(self, seen: _Object, rng: Generator) -> _Object | None:
        """An object of a picture or a video that does not show the one that was `seen`; None if some draws give none."""
        for _ in range(_TRIES):
            other = self._draw(rng)
            if not seen.shares(other.second, other.moving):
                alike = [(still, box) for still, box in other.look_alikes if not seen.shares((still.pictures, still.index), other.moving)]
                return dataclasses.replace(other, look_alikes=alike)
        return None

    def _draw(self, rng: Generator) -> _Object:
        """An object of the pool, by the groups' weights."""
        name = self._names[rng.choice(len(self._names), p=self._weights)]
        return self._still(name, rng) if name in self.pool.stills else self._track(name, rng)

    def _still(self, name: str, rng: Generator) -> _Object:
        i, j = self._objects[name][rng.integers(len(self._objects[name]))]
        still = self.pool.stills[name][i]
        others = [(i, k) for k in range(len(still.boxes))] + _pick(self._by_class.get((name, int(still.classes[j])), []), rng, 2)
        look_alikes = [
            (self.pool.stills[name][a], self.pool.stills[name][a].boxes[b])
            for a, b in others
            if a != i or share_covered(still.boxes[j], still.boxes[b]) <= _SHOWN
        ]
        picture = (still.pictures, still.index)
        return _Object(picture, still.boxes[j], picture, still.boxes[j], False, look_alikes)

    def _track(self, name: str, rng: Generator) -> _Object:
        clip = self._groups[name][rng.choice(len(self._groups[name]), p=self._clip_weights[name])]
        assert isinstance(clip, Clip)
        valid = clip.valid
        times = clip.times[valid]
        one = int(rng.integers(len(valid)))
        near = np.flatnonzero(np.abs(times - times[one]) <= self.config.max_gap)
        two = int(valid[near[rng.integers(len(near))]])
        one = int(valid[one])
        look_alikes = []
        for other in self._neighbours[id(clip.frames)]:
            known = two < len(other.boxes) and np.isfinite(other.boxes[two]).all()
            if known and share_covered(clip.boxes[two], other.boxes[two]) <= _SHOWN:
                look_alikes.append((Still(clip.frames, two, other.boxes[two : two + 1], np.array([-1])), other.boxes[two]))
        return _Object((clip.frames, one), clip.boxes[one], (clip.frames, two), clip.boxes[two], True, look_alikes)


def _reframed(seen: _Object, rng: Generator) -> _Object:
    """The object with another box, at the same place of it both times. Whoever draws a target's first box decides what belongs to it, so a tracker
    has to read that from the template, not from the kind of object.
    """
    smallest, largest = np.log(_REFRAMED_SIDES)
    sides = np.exp(rng.uniform(smallest, largest, 2))
    shift = rng.uniform(-_REFRAMED_SHIFT, _REFRAMED_SHIFT, 2)

    def other(box: np.ndarray) -> np.ndarray:
        return np.concatenate([box[:2] + box[2:] * (0.5 + shift - sides / 2), box[2:] * sides])

    return dataclasses.replace(seen, first_box=other(seen.first_box), second_box=other(seen.second_box))


def _pick(items: list[tuple[int, int]], rng: Generator, count: int) -> list[tuple[int, int]]:
    return [items[rng.integers(len(items))] for _ in range(count)] if items else []
