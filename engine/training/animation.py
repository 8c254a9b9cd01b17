"""Moving pictures of objects over a photo, with the box of each in every frame."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

from engine.training.cutouts import Cutout, extent_of
from engine.training.scene import linear_map

Generator = np.random.Generator
WIDTH, HEIGHT = 480, 360
_SEEN = 1 / 3  # share of an object below which it has no box


@dataclasses.dataclass(frozen=True)
class Wave:
    """A number that changes in time, 0 to 1: a line and a wave."""

    start: float
    slope: float
    height: float
    turns: float
    phase: float

    def __call__(self, time: float) -> float:
        return self.start + self.slope * (time - 0.5) + self.height * float(np.sin(2 * np.pi * self.turns * time + self.phase))


def wave(rng: Generator, start: float, slope: float, height: float) -> Wave:
    """With slope and height drawn around zero with these standard deviations."""
    return Wave(start, rng.normal(0, slope), rng.normal(0, height), rng.uniform(0.5, 2.0), rng.uniform(0, 2 * np.pi))


@dataclasses.dataclass(frozen=True)
class Actor:
    """An object and how it moves: its middle in pixels, the log of its size, its angle, the log of its stretch, its bend over its size, its light."""

    cutout: Cutout
    flip: bool
    x: Wave
    y: Wave
    size: Wave
    turn: Wave
    stretch: Wave
    bend: Wave
    light: Wave

    def shown(self, time: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The object as it looks then: BGR float32 [h, w, 3], alpha float32 [h, w], and the picture's upper left corner in the frame."""
        image, alpha = self.cutout.image, self.cutout.alpha
        scale = np.exp(self.size(time)) / np.sqrt(alpha.shape[0] * alpha.shape[1])
        if scale < 1:  # averaged, not sampled
            sides = [max(4, round(side * scale)) for side in alpha.shape[::-1]]
            image, alpha = (cv2.resize(one, sides, interpolation=cv2.INTER_AREA) for one in (image, alpha))
            scale = 1.0
        linear = linear_map(scale, self.turn(time), self.stretch(time)) @ np.diag([-1.0 if self.flip else 1.0, 1.0])
        height, width = alpha.shape
        corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], float) - [width / 2, height / 2]
        bend = self.bend(time) * np.sqrt(width * height) * scale
        reach = np.ceil(np.abs(corners @ linear.T).max(0) + abs(bend) + 2).astype(int)
        x, y = np.meshgrid(np.arange(-reach[0], reach[0]) + 0.5, np.arange(-reach[1], reach[1]) + 0.5)
        length = np.pi / max(reach)  # the object is one wave long
        bent = np.stack([x + bend * np.sin(length * y + 6 * time), y + bend * np.cos(length * x + 6 * time)], -1)
        places = (bent @ np.linalg.inv(linear).T + np.array([width - 1, height - 1]) / 2).astype(np.float32)
        picture = cv2.remap(image, places[..., 0], places[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        shape = cv2.remap(alpha, places[..., 0], places[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        middle = np.array([self.x(time), self.y(time)])
        return picture.astype(np.float32) * np.exp(self.light(time)), shape, np.round(middle).astype(int) - reach


@dataclasses.dataclass(frozen=True)
class Scene:
    """A clip to be: a photo that is panned over, the objects from the back to the front, and what stands in front of them."""

    background: np.ndarray
    pan: tuple[Wave, Wave, Wave]  # x and y over the frame's sides, and the log of the zoom
    actors: Sequence[Actor]
    bar: tuple[np.ndarray, float, Wave] | None  # a photo, the bar's width in pixels, the place of its middle

    def frame(self, time: float) -> tuple[np.ndarray, np.ndarray]:
        """uint8 BGR [H, W, 3], and the actors' boxes [n, 4], NaN for one that is hardly seen."""
        canvas = panned(self.background, *(one(time) for one in self.pan)).astype(np.float32)
        cover = np.zeros((len(self.actors), HEIGHT, WIDTH), np.float32)  # of each actor, what is seen of it
        areas, extents = np.zeros(len(self.actors)), np.full((len(self.actors), 4), np.nan)
        for number, actor in enumerate(self.actors):
            picture, alpha, corner = actor.shown(time)
            areas[number] = alpha.sum()
            x, y, w, h = extent_of(alpha)
            low, high = np.clip(corner + np.array([[x, y], [x + w, y + h]]), 0, (WIDTH, HEIGHT))
            extents[number] = *low, *(high - low)
            _lay(canvas, cover[number], picture, alpha, corner)
            cover[:number] *= 1 - cover[number]
        if self.bar is not None:
            photo, width, place = self.bar
            left, right = (int(np.clip(place(time) + side * width / 2, 0, WIDTH)) for side in (-1, 1))
            canvas[:, left:right] = photo[:, left:right]
            cover[:, :, left:right] = 0
        seen = cover.sum((1, 2)) / np.maximum(areas, 1)
        extents[seen < _SEEN] = np.nan
        return np.clip(canvas, 0, 255).astype(np.uint8), extents


def _lay(canvas: np.ndarray, cover: np.ndarray, picture: np.ndarray, alpha: np.ndarray, corner: np.ndarray) -> None:
    """The picture over the canvas where both are, and what it covers there."""
    height, width = alpha.shape
    x, y = corner
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + width, canvas.shape[1]), min(y + height, canvas.shape[0])
    if left >= right or top >= bottom:
        return
    part, own = (slice(top, bottom), slice(left, right)), (slice(top - y, bottom - y), slice(left - x, right - x))
    canvas[part] += (picture[own] - canvas[part]) * alpha[own][..., None]
    cover[part] = alpha[own]


def panned(photo: np.ndarray, x: float, y: float, zoom: float) -> np.ndarray:
    """A frame's worth of the photo, which is repeated in mirrors where it ends."""
    scale = max(WIDTH / photo.shape[1], HEIGHT / photo.shape[0]) * np.exp(zoom)
    shift = np.array([WIDTH * (0.5 + x), HEIGHT * (0.5 + y)]) - scale * np.array(photo.shape[1::-1]) / 2
    matrix = np.concatenate([np.eye(2) * scale, shift[:, None]], 1)
    return cv2.warpAffine(photo, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
