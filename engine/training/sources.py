"""Where training boxes come from: still images with boxes and clips with one box a frame, decoded once and kept small in memory.

Folder layout (all parts optional):
    train_images*/NAME/img/*.jpg with boxes.tsv or pseudo_boxes.tsv (columns image, ..., x, y, w, h; a `cls` column is used for look-alikes)
    train_video*/NAME.mp4 with NAME.txt (x,y,w,h a line, as `read_boxes` takes them), or NAME.TRACK.txt for several objects of one clip
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from engine.datasets.text import read_boxes
from engine.errors import DatasetError, SourceError
from engine.video.images import ImageReader

_MIN_SIDE = 8.0  # pixels; smaller boxes are mostly noise
_MIN_SIZE = 16.0  # sqrt(w h)


@dataclasses.dataclass(frozen=True)
class Still:
    """A picture of a sequence, with boxes [n, 4] (x, y, w, h) and their classes [n] (-1: unknown)."""

    pictures: Sequence[np.ndarray]
    index: int
    boxes: np.ndarray
    classes: np.ndarray

    @property
    def image(self) -> np.ndarray:
        """uint8 BGR [H, W, 3]."""
        return self.pictures[self.index]


@dataclasses.dataclass(frozen=True)
class Clip:
    """Frames (uint8 BGR) and one object's boxes [n, 4], NaN where it has none. Tracks of one video share their frames.

    `numbers` [n]: which frames of the video these are, where some were left out.
    """

    frames: Sequence[np.ndarray]
    boxes: np.ndarray
    numbers: np.ndarray | None = None

    @property
    def valid(self) -> np.ndarray:
        """Indices of frames that have a usable box."""
        return np.flatnonzero(np.isfinite(self.boxes).all(1) & (self.boxes[:, 2:] >= _MIN_SIDE).all(1))

    @property
    def times(self) -> np.ndarray:
        """The number of each frame in its video."""
        return np.arange(len(self.boxes)) if self.numbers is None else self.numbers


@dataclasses.dataclass(frozen=True)
class Pool:
    """All training material: groups of stills and clips by name."""

    stills: dict[str, list[Still]]
    clips: dict[str, list[Clip]]
    notes: tuple[str, ...] = ()  # what a user should know of it, such as sequences that were left out

    def picture_lists(self) -> list[Sequence[np.ndarray]]:
        """Every sequence of pictures once, in the pool's order."""
        stills = (still.pictures for group in self.stills.values() for still in group)
        frames = (clip.frames for group in self.clips.values() for clip in group)
        return list({id(pictures): pictures for pictures in (*stills, *frames)}.values())

    @property
    def in_memory(self) -> bool:
        """Whether all pictures are decoded, not read from files when they are drawn."""
        return all(isinstance(pictures, list) for pictures in self.picture_lists())

    def describe(self) -> dict[str, int]:
        """Boxes in each group of stills, frames with a box in each group of clips."""
        counts = {name: sum(len(still.boxes) for still in stills) for name, stills in self.stills.items()}
        return counts | {name: sum(len(clip.valid) for clip in clips) for name, clips in self.clips.items()}


def tracks_by_video(clips: Iterable[Clip]) -> dict[int, list[Clip]]:
    """The tracks that share their frames, by the frames' id, in the order given."""
    videos: dict[int, list[Clip]] = {}
    for clip in clips:
        videos.setdefault(id(clip.frames), []).append(clip)
    return videos


def usable(boxes: np.ndarray) -> np.ndarray:
    """Which boxes are large enough to learn from."""
    return (boxes[:, 2:] >= _MIN_SIDE).all(1) & (np.sqrt(boxes[:, 2:].prod(1)) >= _MIN_SIZE)


def shrink(image: np.ndarray, longest: int) -> tuple[np.ndarray, float]:
    """The picture with a longer side of at most `longest` pixels, and the factor."""
    factor = min(1.0, longest / max(image.shape[:2]))
    if factor == 1.0:
        return image, 1.0
    size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), factor


def read_stills(folder: Path, longest: int = 512) -> list[Still]:
    """Every picture of `folder/img` that has usable boxes in the folder's .tsv file."""
    tables = sorted(folder.glob("*boxes.tsv"))
    if not tables:
        raise DatasetError(f"{folder}: expected boxes.tsv or pseudo_boxes.tsv beside img/")
    rows: dict[str, list[tuple[float, ...]]] = {}
    with tables[0].open(newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            box = tuple(float(row[key]) for key in ("x", "y", "w", "h"))
            rows.setdefault(row["image"], []).append((*box, float(row.get("cls") or -1)))
    stills = []
    for name in sorted(rows):
        try:
            picture = ImageReader()(folder / "img" / name)
        except SourceError as error:
            raise DatasetError(f"{folder}: cannot read the picture img/{name}: {error}") from error
        image, factor = shrink(picture, longest)
        table = np.array(rows[name])
        boxes, classes = table[:, :4] * factor, table[:, 4].astype(int)
        keep = usable(boxes)
        if keep.any():
            stills.append(Still([image], 0, boxes[keep], classes[keep]))
    return stills


def read_video(path: Path, longest: int = 640) -> tuple[list[np.ndarray], float]:
    """All frames of a video, shrunk so that the longer side is at most `longest`, and the factor. SourceError if it cannot be read."""
    from engine.video.files import VideoFile  # packed data are trained on without a video library

    frames: list[np.ndarray] = []
    factor = 1.0
    with VideoFile(path) as source:
        for frame in source:
            if frame.index != len(frames):  # boxes belong to frames by their number
                raise DatasetError(f"{path}: frame {len(frames)} is damaged")
            image, factor = shrink(frame.image, longest)
            frames.append(image)
    if not frames:
        raise DatasetError(f"{path}: no frame could be read")
    return frames, factor


def read_clips(folder: Path, boxes_from: Path | None = None) -> dict[str, list[Clip]]:
    """Every track of the videos in `folder` by the video's name; box files beside them or in `boxes_from`."""
    clips: dict[str, list[Clip]] = {}
    for video in sorted(path for path in folder.glob("*.mp4") if not path.name.startswith(".")):
        tables = sorted(path for path in (boxes_from or folder).glob("*.txt") if path.name.startswith(f"{video.stem}."))
        if not tables:
            continue
        frames, factor = read_video(video)
        tracks = [Clip(frames, (read_boxes(table) * factor)[: len(frames)]) for table in tables]
        clips[video.stem] = [track for track in tracks if len(track.valid) >= 2]
    return clips


def _grouped(folder: str, clips: dict[str, list[Clip]], parts: Collection[str]) -> dict[str, list[Clip]]:
    """The clips of a folder as a group of its name, but those whose names begin with `fod_` as "folder:fod" if `parts` names that."""
    groups: dict[str, list[Clip]] = {}
    for name, tracks in clips.items():
        part = f"{folder}:{name.partition('_')[0]}"
        groups.setdefault(part if part in parts else folder, []).extend(tracks)
    return groups


def read_pool(folder: Path, pseudo: Path | None = None, parts: Collection[str] = (), more: Mapping[str, Path] | None = None) -> Pool:
    """Everything under `folder`; `pseudo`: folder of box files for the videos of `folder/train_video_nogt`; `more`: folders of clips elsewhere, by
    their group's name.

    Groups are named after the folders: NAME of train_images*/NAME, "video" of train_video, "video2" of train_video2 and so on; `parts`: groups
    of clips by the beginning of their names, "video2:fod". DatasetError says what was expected where, if there is nothing.
    """
    stills: dict[str, list[Still]] = {}
    for path in sorted(folder.glob("train_images*/*")):
        if (path / "img").is_dir():
            if path.name in stills:
                raise DatasetError(f"{path}: two folders of pictures have the name {path.name}, which is their group's: rename one")
            stills[path.name] = read_stills(path)
    clips: dict[str, list[Clip]] = {}
    for path in sorted(folder.glob("train_video*")):
        if path.is_dir() and not path.name.endswith("_nogt"):
            clips |= _grouped(path.name.removeprefix("train_"), read_clips(path), parts)
    if pseudo is not None:
        clips |= _grouped("pseudo", read_clips(folder / "train_video_nogt", pseudo), parts)
    for name, path in (more or {}).items():
        if name in stills or name in clips:
            raise DatasetError(f"clips: {folder} has a group {name} already: give {path} another name")
        clips[name] = [track for tracks in read_clips(path).values() for track in tracks]
        if not clips[name]:
            raise DatasetError(
                f"clips: expected NAME.mp4 with NAME.txt in {path}, for the group {name}, found none (engine.training.animate makes such clips)"
            )
    pool = Pool({name: group for name, group in stills.items() if group}, {name: group for name, group in clips.items() if group})
    if not pool.stills and not pool.clips:
        raise DatasetError(
            f"no training data in {folder}: expected train_images/NAME/img/*.jpg with boxes.tsv (image, x, y, w, h), "
            "or train_video/NAME.mp4 with NAME.txt (x,y,w,h a line); set `data:` in the configuration or pass --data DIR"
        )
    return pool
