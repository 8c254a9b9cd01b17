"""The clips of the comparison: parts of sequences from several first frames, at full size and reduced."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.loss.clips import VIDEO, targets
from engine.datasets.sequences import Sequence
from engine.datasets.text import Floats
from engine.evaluation.tracking import fingerprint
from engine.training.validate import sequences

QUALITY = 90  # of JPEG. Reduction by areas averages a codec's traces away; a target that is small in its video has them at its own size


@dataclasses.dataclass(frozen=True)
class Excerpt:
    """A sequence from frame `start` on, at most `limit` frames of it, its sides divided by `scale`."""

    sequence: Sequence
    scale: int
    start: int
    limit: int | None = None

    @property
    def name(self) -> str:
        """Names the clip, whatever its length."""
        return f"{self.sequence.name}@{self.scale}+{self.start}"

    @property
    def mark(self) -> str:
        """Changes with what the clip shows, not with its length."""
        whole = dataclasses.replace(self.sequence, boxes=self.sequence.boxes[self.start :])
        return f"{fingerprint(whole)} {self.name} jpeg {QUALITY}"

    def __len__(self) -> int:
        frames = len(self.sequence.boxes) - self.start
        return frames if self.limit is None else min(frames, self.limit)

    def size(self) -> tuple[int, int]:
        """Width and height of the frames."""
        width, height = self.sequence.image_size()
        return max(1, round(width / self.scale)), max(1, round(height / self.scale))

    def boxes(self) -> Floats:
        """The ground truth in the reduced frames' pixels, [n, 4]."""
        factor = np.array(self.size()) / self.sequence.image_size()
        return self.sequence.boxes[self.start : self.start + len(self)] * np.tile(factor, 2)

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """uint8 BGR; full-size ones as they are, reduced ones (INTER_AREA) through JPEG of QUALITY."""
        for image in itertools.islice(self.sequence.frames(), self.start, self.start + len(self)):
            yield image if self.scale == 1 else _reduced(image, self.scale)


def _reduced(image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    small = cv2.resize(image, (max(1, round(width / scale)), max(1, round(height / scale))), interpolation=cv2.INTER_AREA)
    coded = cv2.imencode(".jpg", small, (cv2.IMWRITE_JPEG_QUALITY, QUALITY))[1]
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)


def material_of(folder: Path) -> list[Sequence]:
    """The sequences of a folder, each with its one groundtruth.txt; of a folder of videos, every target. DatasetError if there is none."""
    return targets(folder) if any(folder.glob(f"*{VIDEO}")) else sequences(folder)


def excerpts(sequences: Iterable[Sequence], scales: Iterable[int], starts: Iterable[int], limit: int | None) -> list[Excerpt]:
    """Every sequence at every scale from every start, first start first; from the next frame with a box where the start has none,
    and not at all where fewer than two frames are left. Two starts of a sequence that come to the same frame are one clip."""
    found = {}
    for start, scale, sequence in itertools.product(starts, scales, sequences):
        usable = np.isfinite(sequence.boxes).all(axis=1) & (sequence.boxes[:, 2:] > 0).all(axis=1)
        first = start + int(np.argmax(usable[start:])) if usable[start:].any() else len(usable)
        clip = Excerpt(sequence, scale, first, limit)
        if len(clip) >= 2:
            found[clip.name] = clip
    return list(found.values())
