"""Photometric augmentation of small uint8 crops with OpenCV: what video does to an object between two frames, and what cameras do to both."""

from __future__ import annotations

import cv2
import numpy as np

Generator = np.random.Generator
_RAMP = np.arange(256, dtype=np.float32)


def jitter_colours(image: np.ndarray, rng: Generator, strength: float) -> np.ndarray:
    """Brightness, contrast, gamma and colour balance through one table, then saturation. `strength` 1 is strong, 0 nothing."""
    contrast = np.exp(strength * rng.normal(0, 0.22))
    brightness = strength * rng.normal(0, 18)
    gamma = np.exp(strength * rng.normal(0, 0.2))
    balance = np.exp(strength * rng.normal(0, 0.07, 3))
    curve = 255 * (_RAMP / 255) ** gamma
    tables = [np.clip((curve - 110) * contrast * gain + 110 + brightness, 0, 255) for gain in balance]
    image = cv2.LUT(image, np.stack(tables, -1).astype(np.uint8)[None])
    saturation = float(np.clip(1 + strength * rng.normal(0, 0.3), 0, 2))
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    return cv2.addWeighted(image, saturation, grey, 1 - saturation, 0)


def shift_hue(image: np.ndarray, degrees: float) -> np.ndarray:
    """Every hue turned by `degrees`."""
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(np.int16) + round(degrees / 2)) % 180
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)


def to_grey(image: np.ndarray) -> np.ndarray:
    """The grey picture in three equal channels."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)


def lower_resolution(image: np.ndarray, factor: float, quality: int | None) -> np.ndarray:
    """As if the object had filled `factor` times as many pixels in the frame: shrink, compress as JPEG (None: not), enlarge bilinearly."""
    side = image.shape[0]
    small = image
    if factor < 1:
        size = max(8, round(side * factor))
        small = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    if quality is not None:
        small = np.asarray(cv2.imdecode(cv2.imencode(".jpg", small, (cv2.IMWRITE_JPEG_QUALITY, quality))[1], cv2.IMREAD_COLOR))
    return small if small.shape[0] == side else cv2.resize(small, (side, side), interpolation=cv2.INTER_LINEAR)


def blur(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Motion blur along a random direction, or (one time in three) a Gaussian."""
    if rng.random() < 1 / 3:
        return cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.5, 2.0)))
    length = int(rng.integers(3, 16)) | 1
    kernel = np.zeros((length, length), np.float32)
    angle = rng.uniform(0, np.pi)
    reach = np.array([np.cos(angle), np.sin(angle)]) * (length // 2)
    middle = length // 2
    first, last = (tuple(round(middle + sign * value) for value in reach) for sign in (-1, 1))
    cv2.line(kernel, first, last, 1.0)
    return cv2.filter2D(image, -1, kernel / kernel.sum())


def add_noise(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Gaussian noise with a standard deviation of up to 10 grey levels."""
    noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(2, 10))
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def soft_mask(side: int, box: np.ndarray, rng: Generator) -> np.ndarray:
    """float32 [side, side, 1], near 1 inside `box` (x, y, w, h in pixels), falling off at its border: an ellipse or a rounded rectangle."""
    x, y, w, h = box
    ys, xs = np.mgrid[0:side, 0:side].astype(np.float32)
    power = rng.choice([2.0, 3.0, 6.0])
    u = np.abs((xs + 0.5 - (x + w / 2)) / max(w / 2, 1))
    v = np.abs((ys + 0.5 - (y + h / 2)) / max(h / 2, 1))
    radius = (u**power + v**power) ** (1 / power)
    softness = max(2.0 / max(min(w, h), 4), 0.06)
    return np.clip((1 - radius) / softness + 0.5, 0, 1)[..., None]


def blend(under: np.ndarray, over: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """over where the mask is 1, under where it is 0."""
    return (under + mask * (over.astype(np.float32) - under)).astype(np.uint8)
