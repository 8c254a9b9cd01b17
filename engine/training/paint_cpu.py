"""Recipes carried out with OpenCV on uint8 crops, one by one."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from engine.training.recipe import Bend, Crop, Ellipse, Layer, Look, blur_kernel


def paint(crops: Sequence[Crop]) -> Tensor:
    """uint8 RGB [B, S, S, 3] of crops of one size."""
    return torch.from_numpy(np.stack([paint_one(crop) for crop in crops]))


def paint_one(crop: Crop) -> np.ndarray:
    """uint8 RGB [S, S, 3]."""
    canvas = np.zeros((crop.size, crop.size, 3), np.uint8)
    for layer in crop.layers:
        canvas = _lay(canvas, layer)
    return _see(canvas, crop.look)[..., ::-1]


def _lay(canvas: np.ndarray, layer: Layer) -> np.ndarray:
    size = canvas.shape[0]
    shown = warp(layer.image, layer.matrix, size, layer.bend)
    if layer.cover is None and not layer.only_inside and layer.window is None:
        return shown
    mask = np.ones((size, size), np.float32) if layer.cover is None else soft_mask(layer.cover, size)
    if layer.only_inside:
        mask = mask * (warp(np.full(layer.image.shape[:2], 255, np.uint8), layer.matrix, size, layer.bend) > 250)
    if layer.window is not None:
        mask = mask * window_mask(layer.window, size)
    return (canvas + mask[..., None] * (shown.astype(np.float32) - canvas)).astype(np.uint8)


def warp(image: np.ndarray, matrix: np.ndarray, size: int, bend: Bend | None = None) -> np.ndarray:
    """The [size, size] crop of an affine map, bent or not, bilinear, black outside."""
    if bend is not None:
        y, x = np.mgrid[:size, :size].astype(np.float64)
        dx, dy = bend.offset(x, y)
        x, y = x + dx, y + dy
        (a, b, c), (d, e, f) = cv2.invertAffineTransform(matrix)
        maps = ((a * x + b * y + c).astype(np.float32), (d * x + e * y + f).astype(np.float32))
        return cv2.remap(image, *maps, interpolation=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(0, 0, 0))
    return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(0, 0, 0))


def window_mask(window: np.ndarray, size: int) -> np.ndarray:
    """float32 [size, size]: 1 where the pixel's centre lies in x1, y1, x2, y2, else 0."""
    x1, y1, x2, y2 = window
    axis = np.arange(size, dtype=np.float32) + 0.5
    inside_x, inside_y = (axis >= x1) & (axis < x2), (axis >= y1) & (axis < y2)
    return (inside_y[:, None] & inside_x[None, :]).astype(np.float32)


def soft_mask(cover: Ellipse, size: int) -> np.ndarray:
    """float32 [size, size] in [0, 1]."""
    x, y, w, h = cover.box
    axis = np.arange(size, dtype=np.float32) + 0.5
    u = (np.abs(axis - np.float32(x + w / 2)) / np.float32(max(w / 2, 1))) ** np.float32(cover.power)
    v = (np.abs(axis - np.float32(y + h / 2)) / np.float32(max(h / 2, 1))) ** np.float32(cover.power)
    radius = (u[None, :] + v[:, None]) ** np.float32(1 / cover.power)
    return np.clip((1 - radius) / np.float32(cover.softness) + 0.5, 0, 1)


def _see(image: np.ndarray, look: Look) -> np.ndarray:
    if look.flip:
        image = np.ascontiguousarray(image[:, ::-1])
    if look.hue:
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(np.int16) + round(look.hue / 2)) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if look.grey:
        image = _grey(image)
    if look.table is not None:
        image = cv2.LUT(image, look.table[None])
    if look.saturation != 1:
        image = cv2.addWeighted(image, look.saturation, _grey(image), 1 - look.saturation, 0)
    if look.blur is not None:
        image = cv2.filter2D(image, -1, blur_kernel(look.blur))
    if look.small is not None:
        image = _lower(image, look.small, look.quality)
    if look.noise is not None:
        seed, deviation = look.noise
        noise = np.random.default_rng(seed).standard_normal(image.shape, dtype=np.float32)
        image = np.clip(image + np.float32(deviation) * noise, 0, 255).astype(np.uint8)
    return image


def _grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)


def _lower(image: np.ndarray, small: int, quality: int | None) -> np.ndarray:
    """As if the object had filled fewer pixels in the frame: shrink, compress as JPEG (None: not), enlarge bilinearly."""
    side = image.shape[0]
    if small < side:
        image = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
    if quality is not None:
        image = np.asarray(cv2.imdecode(cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, quality))[1], cv2.IMREAD_COLOR))
    return image if small == side else cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)
