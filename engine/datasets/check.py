"""Checks a data set before hours are spent on it: lengths, boxes, labels, gaps in the numbering, damaged images. No PyTorch here."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from engine.datasets.layouts import open_dataset
from engine.datasets.sequences import Sequence
from engine.datasets.text import Flags, look_like_corners
from engine.errors import EsatError
from engine.video.listing import natural_key

# What a file of this kind begins with, and what has to stand near its end.
_MARKS = {
    ".jpg": (b"\xff\xd8", b"\xff\xd9"),
    ".jpeg": (b"\xff\xd8", b"\xff\xd9"),
    ".png": (b"\x89PNG\r\n\x1a\n", b"IEND"),
}
CORNERS = "its boxes look like corners x1,y1,x2,y2: expected x,y,w,h"
_TAIL_BYTES = 64  # cameras and editors pad files after the end mark


@dataclasses.dataclass(frozen=True)
class Finding:
    """`level` is "error" (the sequence cannot be evaluated) or "warning"."""

    level: str
    sequence: str  # "": the whole data set
    message: str


@dataclasses.dataclass(frozen=True)
class Report:
    """What a check found."""

    root: Path
    layout: str
    sequences: int
    frames: int
    unscored: int  # sequences whose boxes are not public
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """No errors; warnings may be there."""
        return not any(finding.level == "error" for finding in self.findings)


def check(root: str | Path, layout: str = "auto") -> Report:
    """Look at every sequence in a folder. Images are checked by their first and last bytes, the first one of each sequence by decoding.

    ConfigError, DatasetError: the folder as a whole cannot be read as `layout`.
    """
    dataset = open_dataset(Path(root), layout)
    findings = [Finding("warning", "", note) for note in dataset.notes]
    findings += [Finding("error", entry.name, entry.reason) for entry in dataset.broken]
    for sequence in dataset.sequences:
        findings += _check(sequence)
    return Report(
        dataset.root,
        dataset.layout,
        len(dataset.sequences) + len(dataset.broken),
        sum(sequence.frame_count or 0 for sequence in dataset.sequences),
        sum(not sequence.scored for sequence in dataset.sequences),
        tuple(findings),
    )


def _check(sequence: Sequence) -> list[Finding]:
    findings = [Finding("warning", sequence.name, text) for text in sequence.warnings]
    try:
        width, height = sequence.image_size()
    except EsatError as error:
        return [*findings, Finding("error", sequence.name, str(error))]
    damaged = [path for path in sequence.images if not intact(path)]
    if damaged:
        findings.append(Finding("error", sequence.name, f"{len(damaged)} damaged images, the first is {damaged[0]}"))
    if gaps := _gaps(sequence.images):
        findings.append(Finding("warning", sequence.name, f"the images' numbers jump after {', '.join(gaps[:3])}"))
    return [*findings, *_check_boxes(sequence, width, height)]


def _check_boxes(sequence: Sequence, width: int, height: int) -> list[Finding]:
    boxes = sequence.boxes
    valid = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1)
    known = boxes[valid]
    outside: Flags = np.asarray((known[:, :2] >= (width, height)).any(axis=1) | ((known[:, :2] + known[:, 2:]) <= 0).any(axis=1))
    counts = {
        "frames without a valid box": int((~valid).sum()),
        "boxes wholly outside the image": int(outside.sum()),
        "boxes larger than the image": int((known[:, 2:] > (width + 1, height + 1)).any(axis=1).sum()),
    }
    findings = [Finding("warning", sequence.name, f"{count} {what}") for what, count in counts.items() if count]
    if look_like_corners(boxes, width, height):
        findings.append(Finding("warning", sequence.name, CORNERS))
    if bool(outside[0]):
        findings.append(Finding("error", sequence.name, f"the first box {boxes[0].tolist()} lies outside the {width} x {height} image"))
    return findings


def intact(path: Path) -> bool:
    """Whether an image file has its beginning and its end (JPEG, PNG), or at least some content (other kinds)."""
    begin, end = _MARKS.get(path.suffix.lower(), (b"", b""))
    try:
        with open(path, "rb") as file:
            head = file.read(max(len(begin), 1))
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            tail = file.read()
    except OSError:
        return False
    return bool(head) and head.startswith(begin) and end in tail


def _gaps(images: tuple[Path, ...]) -> list[str]:
    """Names after which a frame number is missing."""
    numbers = [[part for part in natural_key(path.stem) if part[0]] for path in images]
    if any(not parts for parts in numbers):
        return []
    last = [parts[-1][1] for parts in numbers]
    return [path.name for path, number, following in zip(images, last, last[1:], strict=False) if following != number + 1]
