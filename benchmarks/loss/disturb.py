"""Real clips whose target goes away and comes back: covered by a patch, out of view, or behind a cut. Equal seeds give equal clips."""

from __future__ import annotations

import dataclasses
import itertools
import zlib

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.datasets.sequences import Sequence
from engine.datasets.text import Floats

Frame = NDArray[np.uint8]
KINDS = ("cover", "leave", "cut")
LENGTHS = (20, 30)  # frames without the target
LEAD, TAIL = 15, 32  # frames before the disturbance begins and after the target is back
SLIDE = 6  # frames in which a patch slides in or out, or the view pans
GONE, BACK = 0.1, 0.9  # visible shares of the target's box


@dataclasses.dataclass(frozen=True)
class Clip:
    """A sequence's frames (uint8 BGR) with the target's box in each (x, y, w, h), and the share of the box that can be seen."""

    name: str
    kind: str  # "plain" or one of KINDS
    frames: list[Frame]
    boxes: Floats  # [N, 4]; in frames without the target, where it would be
    visible: Floats  # [N], 0 to 1

    @property
    def gone(self) -> int:
        """The first frame without the target."""
        return int(np.argmax(self.visible <= GONE))

    @property
    def back(self) -> int:
        """The first frame that shows it again."""
        return self.gone + int(np.argmax(self.visible[self.gone :] >= BACK))


def plain(sequence: Sequence, count: int | None = None) -> Clip:
    """The sequence as it is, or its first `count` frames."""
    frames = list(itertools.islice(sequence.frames(), count))
    return Clip(sequence.name, "plain", frames, sequence.boxes[: len(frames)], np.ones(len(frames)))


def disturb(sequence: Sequence, donor: Sequence, kind: str, seed: int) -> Clip:
    """A part of `sequence` with a disturbance of this kind; `donor` gives what covers the target or is seen in its stead.

    The part begins at a random frame. Where a sequence is too short it is played to and fro.
    """
    rng = np.random.default_rng([seed, zlib.crc32(f"{sequence.name} {kind}".encode())])
    length = int(rng.choice(LENGTHS))
    count = LEAD + 2 * SLIDE + length + TAIL
    span = len(sequence.boxes)
    first = int(rng.integers(0, max(1, span - count + 1)))
    to_and_fro = itertools.cycle((*range(span), *range(span - 2, 0, -1)))
    wanted = list(itertools.islice(to_and_fro, first, first + count))
    source = dict(_pick(sequence, set(wanted)))
    frames, boxes = [source[index] for index in wanted], sequence.boxes[wanted].copy()
    height, width = frames[0].shape[:2]
    others = [cv2.resize(image, (width, height)) for _, image in _pick(donor, set(range(min(count, len(donor.boxes)))))]
    away = _timeline(length)
    changed = {"cover": _cover, "leave": _leave, "cut": _cut}[kind](frames, boxes, others, away, rng)
    return Clip(f"{sequence.name}-{kind}-{seed}", kind, *changed)


def _pick(sequence: Sequence, wanted: set[int]) -> list[tuple[int, Frame]]:
    last = max(wanted)
    return [(index, image) for index, image in enumerate(itertools.islice(sequence.frames(), last + 1)) if index in wanted]


def _timeline(length: int) -> Floats:
    """How far the disturbance has come in each frame: 0 before and after, 1 while the target is away."""
    ramp = np.arange(1, SLIDE + 1) / (SLIDE + 1)
    return np.concatenate([np.zeros(LEAD), ramp, np.ones(length), ramp[::-1], np.zeros(TAIL)])


def _cover(
    frames: list[Frame], boxes: Floats, others: list[Frame], away: Floats, rng: np.random.Generator
) -> tuple[list[Frame], Floats, Floats]:
    """A patch of another clip or of the clip's own surroundings, a little larger than the target, slides over it and on."""
    angle = rng.uniform(0, 2 * np.pi)
    scene = others[0] if rng.random() < 0.5 else frames[0]
    patch = _background(scene, boxes[0] if scene is frames[0] else None, boxes[0][2:] * 1.3, rng)
    middle = len(away) // 2
    covered, visible = [], []
    for index, (frame, box, share) in enumerate(zip(frames, boxes, away, strict=True)):
        size = np.maximum(np.round(1.25 * box[2:]), 4)
        side = 1 if index < middle else -1
        shift = side * (1 - share) * 1.2 * size * np.array([np.cos(angle), np.sin(angle)]) / max(abs(np.cos(angle)), abs(np.sin(angle)))
        corner = box[:2] + 0.5 * (box[2:] - size) + shift
        if share == 0:
            covered.append(frame)
            visible.append(1.0)
            continue
        covered.append(_paste(frame, cv2.resize(patch, tuple(size.astype(int).tolist())), np.round(corner).astype(int)))
        visible.append(1 - _share_inside(box, (*corner, *size)))
    return covered, boxes, np.array(visible)


def _background(scene: Frame, avoid: Floats | None, size: Floats, rng: np.random.Generator) -> Frame:
    """A random part of the scene of about this size, away from the box `avoid` if there is such a place."""
    height, width = scene.shape[:2]
    w, h = (int(np.clip(value, 8, 0.6 * limit)) for value, limit in zip(size, (width, height), strict=True))
    best, least = scene[:h, :w], np.inf
    for _ in range(30):
        x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
        overlap = 0.0 if avoid is None else _share_inside(avoid, (x, y, w, h))
        if overlap < least:
            best, least = scene[y : y + h, x : x + w], overlap
        if least == 0:
            break
    return best


def _leave(
    frames: list[Frame], boxes: Floats, others: list[Frame], away: Floats, rng: np.random.Generator
) -> tuple[list[Frame], Floats, Floats]:
    """The view pans to another scene beside this one, and back: from the same side or from the other, to the same place or beside it."""
    height, width = frames[0].shape[:2]
    leaves = int(rng.choice((-1, 1)))
    returns = int(rng.choice((-1, 1)))
    later = boxes[len(boxes) - TAIL :]
    room = (-float(later[:, 0].min()), width - float((later[:, 0] + later[:, 2]).max()))  # shifts that keep the target in view
    rest = float(np.clip(rng.uniform(-0.25, 0.25) * width, min(room[0], 0), max(room[1], 0)))
    middle = len(away) // 2
    shown, moved, visible = [], boxes.copy(), []
    for index, (frame, share) in enumerate(zip(frames, away, strict=True)):
        start, side = (0.0, leaves) if index < middle else (rest, returns)
        shift = round(start + share * (side * width - start))
        other = others[index % len(others)]
        shown.append(np.roll(np.hstack([frame, other]), shift, axis=1)[:, :width] if shift else frame)
        moved[index, 0] += shift
        visible.append(_share_inside(moved[index], (0, 0, width, height)) / max(_share_inside(boxes[index], (0, 0, width, height)), 1e-9))
    return shown, moved, np.minimum(np.array(visible), 1.0)


def _cut(
    frames: list[Frame], boxes: Floats, others: list[Frame], away: Floats, rng: np.random.Generator
) -> tuple[list[Frame], Floats, Floats]:
    """Another clip for a while."""
    shown = [others[index % len(others)] if share == 1 else frame for index, (frame, share) in enumerate(zip(frames, away, strict=True))]
    return shown, boxes, np.where(away == 1, 0.0, 1.0)


def _share_inside(box: Floats | tuple[float, ...], area: tuple[float, ...]) -> float:
    """The share of `box` that lies in `area`, both x, y, w, h."""
    x = min(box[0] + box[2], area[0] + area[2]) - max(box[0], area[0])
    y = min(box[1] + box[3], area[1] + area[3]) - max(box[1], area[1])
    return float(max(x, 0) * max(y, 0) / (box[2] * box[3]))


def _paste(frame: Frame, patch: Frame, corner: NDArray[np.int_]) -> Frame:
    """A copy of the frame with the patch at `corner`, as far as it lies in the frame."""
    canvas = frame.copy()
    height, width = frame.shape[:2]
    x, y = corner
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + patch.shape[1], width), min(y + patch.shape[0], height)
    if left < right and top < bottom:
        canvas[top:bottom, left:right] = patch[top - y : bottom - y, left - x : right - x]
    return canvas
