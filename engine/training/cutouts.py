"""Objects without what is around them: cut out of stills by their boxes (GrabCut, Rother et al. 2004)."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from engine.boxes import overlap
from engine.training.sources import Still, shrink

_SIDE = 160  # pixels of a cut-out's longer side at most
_LEAST = 32.0  # sqrt(w h) of a box in pixels from which its outline can be found
_ROUND = 0.25  # of the box's sides: how far the surroundings that teach GrabCut the background reach
_SAME = 0.7  # IoU of the outline's extent with the box from which on it is believed
_FILLED = (0.15, 0.95)  # share of the box that the object fills; a box that is all object is one whose outline was not found


@dataclasses.dataclass(frozen=True)
class Cutout:
    """uint8 BGR [h, w, 3], and how much of each pixel is the object's, float32 [h, w]. The object reaches all four borders."""

    image: np.ndarray
    alpha: np.ndarray


def cut_out(still: Still, number: int) -> Cutout | None:
    """The object of box `number` of a still; None where it is small, reaches the picture's border, or where the outline does not fit the box."""
    x, y, w, h = still.boxes[number]
    height, width = still.image.shape[:2]
    if np.sqrt(w * h) < _LEAST or x < 2 or y < 2 or x + w > width - 2 or y + h > height - 2:
        return None
    left, top = max(int(x - _ROUND * w), 0), max(int(y - _ROUND * h), 0)
    right, bottom = min(int(x + (1 + _ROUND) * w), width), min(int(y + (1 + _ROUND) * h), height)
    image, factor = shrink(still.image[top:bottom, left:right], _SIDE)
    box = np.round(np.array([x - left, y - top, w, h]) * factor).astype(int)
    mask = np.zeros(image.shape[:2], np.uint8)
    cv2.setRNGSeed(0)
    cv2.grabCut(image, mask, tuple(box.tolist()), np.zeros((1, 65)), np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_RECT)
    _, labels, stats, _ = cv2.connectedComponentsWithStats((mask & 1).astype(np.uint8))
    if len(stats) < 2:
        return None
    best = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    extent, area = stats[best, :4], stats[best, cv2.CC_STAT_AREA]
    filled = area / box[2:].prod()
    if not (_FILLED[0] <= filled <= _FILLED[1]) or overlap(tuple(extent.tolist()), tuple(box.tolist())) < _SAME:
        return None
    alpha = cv2.GaussianBlur((labels == best).astype(np.float32), (0, 0), 0.8)
    return _trimmed(image, alpha)


def extent_of(alpha: np.ndarray) -> tuple[int, int, int, int]:
    """x, y, w, h of the pixels that are mostly the object's; no width and height if there is none."""
    x, y, w, h = cv2.boundingRect((alpha > 0.5).astype(np.uint8))
    return x, y, w, h


def _trimmed(image: np.ndarray, alpha: np.ndarray) -> Cutout:
    """Without the empty border."""
    x, y, w, h = extent_of(alpha)
    part = (slice(y, y + h), slice(x, x + w))
    return Cutout(np.ascontiguousarray(image[part]), np.ascontiguousarray(alpha[part]))
