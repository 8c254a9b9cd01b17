"""Boxes for unlabelled clips: a tracker follows chosen objects in both directions of time, and only what agrees forwards and backwards is kept.

    python -m engine.training.pseudo configs/pseudo_starts.csv VIDEOS OUT [--tracker nanotrack.py] [--weights FILE [--dtype int8]]

The file of starts has the columns clip, frame, x, y, w, h (pixels of a 640-pixel-wide frame). `--tracker` is a Python file with a class of the
interface `Class(image, box)` and `update(image) -> box`; `--weights` a preset's name or a .safetensors file for the product's public loop. With
both, their labels are merged (`merge`). OUT receives NAME.K.txt, one x,y,w,h a line and frame in the video's pixels, `nan` where unsure;
OUT/TEACHER the same of each teacher, which is read if it is there, so that an interrupted run goes on (take another folder for other starts, or
after a change of the tracker); and OUT/teachers.tsv, a line a track.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engine.datasets.text import read_boxes, write_boxes
from engine.errors import DatasetError, EsatError
from engine.evaluation.metrics import iou
from engine.files import PendingFile
from engine.training.follow import Follow, harness, product
from engine.training.sources import read_video
from engine.weights import find_weights
from engine.weights.io import file_hash

_SEGMENT = 40  # frames between two checks
_AGREEMENT = 0.65  # IoU of the way there and the way back for a frame to be kept
_RETURN = 0.5  # IoU at the segment's first frame below which the track ends
_SAME = 0.8  # share of the frames kept by both teachers in which they agree, for both to be said to follow the same object
_WIDTH = 640
RECORD = "teachers.tsv"


class Start(NamedTuple):
    """An object to follow: the video's name, the object's number in it, the frame, and the box in pixels of a frame 640 wide."""

    clip: str
    number: int
    frame: int
    box: np.ndarray

    @property
    def name(self) -> str:
        return f"{self.clip}.{self.number}"


def consistent_track(frames: Sequence[np.ndarray], box: np.ndarray, follow: Follow) -> np.ndarray:
    """Boxes of the object at `box` in frames[0] for every frame [n, 4], NaN where forward and backward tracks disagree and after a loss.

    Segment by segment the object is followed from its first box and, from the segment's last box, back again; behind a loss it is not.
    """
    boxes = np.full((len(frames), 4), np.nan)
    boxes[0] = box
    ahead = iter(follow(frames, box))
    there = list(itertools.islice(ahead, 1))
    for start in range(0, len(frames) - 1, _SEGMENT):
        stop = min(start + _SEGMENT + 1, len(frames))
        there = [there[-1], *itertools.islice(ahead, stop - start - 1)]
        back = np.array(list(follow(frames[start:stop][::-1], there[-1])))[::-1]
        agreement = iou(np.array(there), back)
        if agreement[0] < _RETURN:
            break
        keep = np.flatnonzero(agreement >= _AGREEMENT)
        boxes[start + keep] = ((np.array(there) + back) / 2)[keep]
    return boxes


def label(frames: Sequence[np.ndarray], index: int, box: np.ndarray, follow: Follow) -> np.ndarray:
    """`consistent_track` from frame `index` to both ends of the clip."""
    after = consistent_track(frames[index:], box, follow)
    before = consistent_track(frames[: index + 1][::-1], box, follow)[::-1]
    return np.concatenate([before[:-1], after])


def merge(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, str]:
    """Two teachers' boxes of a track [n, 4], NaN where a teacher is unsure, as one; and whose they are: "both", "first" or "second".

    Where they agree in most of the frames that both kept, they follow the same object: the mean where they agree, the box of the one that has
    one where the other is unsure, nothing where they contradict each other. Else all boxes are of the teacher that keeps more frames.
    """
    first, second = (np.isfinite(boxes).all(1) for boxes in (one, other))
    agree = _agreement(one, other)
    common = first & second
    if common.any() and agree.sum() < _SAME * common.sum():
        return (one, "first") if first.sum() >= second.sum() else (other, "second")
    merged = np.where(first[:, None], one, other)
    merged[common] = (one[common] + other[common]) / 2
    merged[common & ~agree] = np.nan
    return merged, "both"


def _agreement(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[n] frames in which both have a box and mean the same."""
    common = np.isfinite(one).all(1) & np.isfinite(other).all(1)
    return common & (iou(np.nan_to_num(one), np.nan_to_num(other)) >= _AGREEMENT)


def read_starts(path: Path) -> list[Start]:
    """DatasetError for a file that cannot be read, and with the line for one that does not fit."""
    counts: dict[str, int] = {}
    starts = []
    try:
        with path.open(newline="") as file:
            for line, row in enumerate(csv.DictReader(file), 2):
                try:
                    box, frame = np.array([float(row[key]) for key in ("x", "y", "w", "h")]), int(row["frame"])
                    if frame < 0 or not np.isfinite(box).all() or (box[2:] <= 0).any():
                        raise ValueError
                    number = counts[row["clip"]] = counts.get(row["clip"], -1) + 1
                except (LookupError, TypeError, ValueError) as error:
                    raise DatasetError(
                        f"{path}, line {line}: expected clip, frame, x, y, w, h, a box with sides above 0, got {row}"
                    ) from error
                starts.append(Start(row["clip"], number, frame, box))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"cannot read {path}: {error}") from error
    if not starts:
        raise DatasetError(f"{path}: expected lines of clip, frame, x, y, w, h, found none")
    return starts


def label_clips(
    starts: Sequence[Start], videos: Path, out: Path, teachers: Mapping[str, Callable[[], Follow]], say: Callable[[str], None]
) -> None:
    """Label every start by one teacher or two, and write what the module's text says into `out`. DatasetError, SourceError, SinkError."""
    opened: dict[str, Follow] = {}
    record = []
    for clip in sorted({start.clip for start in starts}):
        frames: list[np.ndarray] = []
        factor = 1.0
        for start in (start for start in starts if start.clip == clip):
            found = []
            for teacher, open_teacher in teachers.items():
                path = out / teacher / f"{start.name}.txt"
                if not path.is_file():
                    if not frames:
                        frames, factor = read_video(videos / f"{clip}.mp4", _WIDTH)
                    if teacher not in opened:
                        opened[teacher] = open_teacher()
                    if start.frame >= len(frames):
                        raise DatasetError(f"{start.name} begins at frame {start.frame}, {clip}.mp4 has {len(frames)}")
                    boxes = label(frames, start.frame, start.box, opened[teacher])
                    write_boxes(path, boxes / factor)
                found.append(read_boxes(path))
            if len({len(boxes) for boxes in found}) > 1:
                raise DatasetError(f"{out}: teachers have labelled different numbers of frames of {start.name}: use another folder")
            merged, choice = merge(*found) if len(found) == 2 else (found[0], "first")
            write_boxes(out / f"{start.name}.txt", merged)
            row = _row(start.name, found, merged, choice, list(teachers))
            say(", ".join(f"{key} {value}" for key, value in row.items()))
            record.append(row)
    lines = ["\t".join(record[0]), *("\t".join(map(str, row.values())) for row in record)]
    with PendingFile(out / RECORD) as pending:
        pending.partial.write_text("\n".join(lines) + "\n")


def _row(name: str, found: Sequence[np.ndarray], merged: np.ndarray, choice: str, teachers: Sequence[str]) -> dict[str, object]:
    kept = {teacher: int(np.isfinite(boxes).all(1).sum()) for teacher, boxes in zip(teachers, found, strict=True)}
    row: dict[str, object] = {"track": name, "frames": len(merged), **kept}
    if len(found) == 2:
        common = np.isfinite(found[0]).all(1) & np.isfinite(found[1]).all(1)
        row |= {"common": int(common.sum()), "agree": int(_agreement(*found).sum()), "kept": int(np.isfinite(merged).all(1).sum())}
        row["of"] = {"first": teachers[0], "second": teachers[1]}.get(choice, choice)
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Label clips by tracking in both directions of time")
    parser.add_argument("starts", type=Path)
    parser.add_argument("videos", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tracker", type=Path)
    parser.add_argument("--weights")
    parser.add_argument("--dtype", default="auto", help="of the weights' tracker")
    options = parser.parse_args(arguments)
    if options.tracker is None and options.weights is None:
        parser.error("expected a teacher: --tracker FILE.py, --weights FILE, or both")
    teachers: dict[str, Callable[[], Follow]] = {}
    try:
        if options.tracker is not None:
            teachers[options.tracker.stem] = lambda: harness(options.tracker)
        if options.weights is not None:
            path = find_weights(options.weights).path
            teachers[f"{path.stem}-{file_hash(path)[:8]}-{options.dtype}"] = lambda: product(options.weights, options.dtype)
        label_clips(read_starts(options.starts), options.videos, options.out, teachers, lambda text: print(text, flush=True))
    except EsatError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
