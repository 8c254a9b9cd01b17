"""Regions of a picture as targets, whatever they show: any photo holds hundreds, where people drew a few boxes.

A tracker of anything has to find again what it was shown, not what is mostly an object; crops of a picture without labels teach that (as exemplars
do, Dosovitskiy et al. 2014). What is flat, or a straight edge, could be at many places: the smaller eigenvalue of the structure tensor (Shi and
Tomasi 1994) tells.
"""

from __future__ import annotations

import cv2
import numpy as np

_SMALLEST, _LARGEST = 24.0, 0.5  # size sqrt(w h): in pixels, and over the picture's shorter side
_ASPECT = 0.4  # standard deviation of log(w / h)
_SIDE = 32  # pixels to which a region is reduced before its gradients are taken: about what the template shows of it
_DISTINCT = 6.0  # grey levels a pixel of that
_TRIES = 8


def distinct(region: np.ndarray) -> float:
    """How well the place of a region, uint8 BGR [h, w, 3], can be told: its gradient where there is least of it, in grey levels a pixel."""
    grey = cv2.cvtColor(cv2.resize(region, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY).astype(np.float64)
    down, right = np.gradient(grey)
    tensor = np.array([[(right * right).mean(), (right * down).mean()], [(right * down).mean(), (down * down).mean()]])
    return float(np.sqrt(max(np.linalg.eigvalsh(tensor)[0], 0.0)))


def draw_region(image: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """A box x, y, w, h that lies in the picture and can be told from what surrounds it; None if some draws give none."""
    height, width = image.shape[:2]
    largest = _LARGEST * min(height, width)
    if largest < _SMALLEST:
        return None
    for _ in range(_TRIES):
        size, stretch = np.exp(rng.uniform(np.log(_SMALLEST), np.log(largest))), np.exp(rng.normal(0, _ASPECT) / 2)
        w, h = min(size * stretch, width), min(size / stretch, height)
        x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
        if distinct(image[int(y) : int(np.ceil(y + h)), int(x) : int(np.ceil(x + w))]) >= _DISTINCT:
            return np.array([x, y, w, h])
    return None
