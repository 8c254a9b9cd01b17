"""The clips of the benchmark: the targets of a folder's sequences, at full size and shrunk, so that small targets are among them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np

from benchmarks.loss.disturb import Clip, disturb
from engine.datasets.sequences import Sequence, image_files
from engine.datasets.text import read_boxes
from engine.errors import DatasetError

VIDEO = ".mp4"
DISTURBED = (  # target, kind, donor: each scene in each kind
    ("otb_Crossing", "cover", "vot15_car1"),
    ("otb_Crossing", "leave", "vot15_traffic"),
    ("otb_Crossing", "cut", "otb_Coke"),
    ("davis_dog", "leave", "vot_bag"),
    ("davis_dog", "cover", "vot14_car"),
    ("davis_dog", "cut", "otb_Crossing"),
    ("otb_Coke", "cut", "davis_dog"),
    ("otb_Coke", "cover", "vot15_bolt1"),
    ("otb_Coke", "leave", "otb_Human3"),
    ("uav_wakeboard7", "cover", "vot15_traffic"),
    ("uav_wakeboard7", "leave", "otb_Jogging-1"),
    ("uav_wakeboard7", "cut", "otb_Human3"),
    ("vot15_bolt1", "leave", "vot14_car"),
    ("vot15_bolt1", "cover", "otb_Coke"),
    ("vot15_bolt1", "cut", "vot15_car1"),
    ("vot_bag", "cut", "vot15_bolt1"),
    ("vot_bag", "cover", "otb_Crossing"),
    ("vot_bag", "leave", "davis_dog"),
    ("davis_car-shadow", "cover", "otb_Jogging-1"),
    ("davis_car-shadow", "leave", "davis_dog"),
    ("davis_car-shadow", "cut", "davis_dog"),
    ("otb_Jogging-1", "leave", "otb_Coke"),
    ("otb_Jogging-1", "cover", "otb_Human3"),
    ("otb_Jogging-1", "cut", "vot15_traffic"),
    ("vot15_traffic", "cut", "otb_Crossing"),
    ("vot15_traffic", "cover", "vot15_car1"),
    ("vot15_traffic", "leave", "vot14_car"),
    ("otb_Human3", "cover", "davis_dog"),
    ("otb_Human3", "leave", "vot_bag"),
    ("otb_Human3", "cut", "vot15_bolt1"),
    ("davis_drift-straight", "leave", "otb_Human3"),
    ("davis_drift-straight", "cover", "davis_dog"),
    ("davis_drift-straight", "cut", "otb_Jogging-1"),
)


@dataclasses.dataclass(frozen=True)
class Part:
    """Frames `first` .. `last` - 1 of a sequence, as far as `disturb` asks for them."""

    sequence: Sequence
    first: int
    last: int

    @property
    def name(self) -> str:
        return self.sequence.name

    @property
    def boxes(self) -> np.ndarray:
        return self.sequence.boxes[self.first : self.last]

    def frames(self):  # type: ignore[no-untyped-def]
        return itertools.islice(self.sequence.frames(), self.first, self.last)


@dataclasses.dataclass(frozen=True)
class Job:
    """A clip to make: a target's sequence shrunk by `shrink`, or disturbed (`kind`, with what `donor` shows)."""

    target: Sequence
    frames: int
    shrink: int = 1
    kind: str = "plain"
    donor: Sequence | None = None

    @property
    def name(self) -> str:
        return f"{self.target.name}@{self.shrink}" if self.donor is None else f"{self.target.name}-{self.kind}-{self.donor.name}"

    @property
    def fold(self) -> str:
        """Clips of one scene, whatever its size and target, are left out together."""
        return self.target.name.split(".")[0].removesuffix("-1").removesuffix("-2")

    def clip(self) -> Clip:
        if self.donor is not None:
            return disturb(_known(self.target), Part(self.donor, 0, len(self.donor.boxes)), self.kind, 0)  # type: ignore[arg-type]
        frames = list(itertools.islice(self.target.frames(), self.frames))
        height, width = frames[0].shape[:2]
        size = (round(width / self.shrink), round(height / self.shrink))
        scale = np.tile(np.array(size) / (width, height), 2)
        boxes = self.target.boxes[: len(frames)] * scale
        if self.shrink > 1:
            frames = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]  # type: ignore[misc]
        return Clip(self.name, "plain", frames, boxes, np.isfinite(boxes).all(axis=1).astype(float))


def targets(folder: Path, only: tuple[str, ...] = ()) -> list[Sequence]:
    """Every target of a folder: NAME/img with groundtruth*.txt, and NAME.mp4 with NAME.txt or NAME.TARGET.txt. NaN: not in view."""
    found = []
    for truth in sorted(folder.glob("*/groundtruth*.txt")):
        name, boxes = truth.parent.name, read_boxes(truth)
        if truth.stem != "groundtruth":
            name = f"{name.rsplit('-', 1)[0]}-{truth.stem.rsplit('_', 1)[1]}"
        found.append(Sequence(name, boxes, image_files(truth.parent / "img")[: len(boxes)]))
    for truth in sorted(folder.glob("*.txt")):
        video = truth.with_name(truth.stem.split(".")[0] + VIDEO)
        if video.is_file():
            found.append(Sequence(truth.stem, read_boxes(truth), video=video))
    found = [target for target in found if not only or target.name in only]
    if not found:
        raise DatasetError(f"{folder}: expected sequences with groundtruth.txt, or videos with NAME.txt, found none")
    return found


def together(folders: Iterable[Path], read: Callable[[Path], list[Sequence]] = targets) -> list[tuple[Path, Sequence]]:
    """The sequences of several folders, each behind its folder. DatasetError if one has none, or if two have a sequence of one name."""
    found: dict[str, Path] = {}
    material = []
    for folder in folders:
        for sequence in read(folder):
            if sequence.name in found:
                raise DatasetError(f"expected sequences of different names, got {sequence.name} in {found[sequence.name]} and in {folder}")
            found[sequence.name] = folder
            material.append((folder, sequence))
    return material


def disturbed(sequences: list[Sequence], frames: int) -> list[Job]:
    """The clips of DISTURBED whose target and donor are there."""
    by_name = {sequence.name: sequence for sequence in sequences}
    return [
        Job(by_name[target], frames, 1, kind, by_name[donor]) for target, kind, donor in DISTURBED if target in by_name and donor in by_name
    ]


def _known(sequence: Sequence) -> Part:
    """The first part of 60 frames and more with a box in each, or the longest one."""
    known = np.isfinite(sequence.boxes).all(axis=1)
    runs = [(key, list(group)) for key, group in itertools.groupby(range(len(known)), lambda index: bool(known[index]))]
    parts = [group for key, group in runs if key]
    part = next((group for group in parts if len(group) >= 60), max(parts, key=len))
    return Part(sequence, part[0], part[-1] + 1)
