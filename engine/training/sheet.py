"""Contact sheets: what the trainer sees of the data, as one picture. Pairs come from `PairMaker` itself, so every kind of pair shows up."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from engine.errors import ConfigError
from engine.files import PendingFile
from engine.training.pairs import Batch
from engine.training.sources import Clip, Pool, Still, tracks_by_video

_GAP = 4  # pixels between cells
_PAPER = 32
_BOX = (60, 230, 60)  # BGR; the frame of an absent target's search region is _ABSENT
_ABSENT = (60, 60, 230)
_TRACKS = ((60, 230, 60), (230, 160, 40), (60, 180, 250), (220, 80, 220), (230, 230, 60), (80, 80, 250))
_CELL = (240, 180)  # width and height of a picture of the data
_LINE = 18  # height of a group's title


def pair_sheet(batch: Batch, columns: int = 4) -> np.ndarray:
    """uint8 BGR: each pair as template and search region with the target's boxes; a red frame and no box where the target is absent."""
    cells = []
    pairs = zip(batch.template, batch.template_boxes, batch.search, batch.boxes, batch.present.tolist(), strict=True)
    for template, template_box, search, box, present in pairs:
        shown, region = _bgr(template), _bgr(search)
        _draw_target(shown, template_box)
        if present:
            _draw_target(region, box)
        else:
            last = region.shape[0] - 1
            cv2.rectangle(region, (0, 0), (last, last), _ABSENT, 3)
        cells.append(_row([shown, region]))
    return _grid(cells, columns)


def data_sheet(pool: Pool, per_group: int = 24, columns: int = 8) -> np.ndarray:
    """uint8 BGR: of each group at most `per_group` pictures, evenly spread, with their boxes; of a clip the frame in which most tracks have one,
    each in a colour of its own."""
    parts = []
    for name, pictures in _pictures(pool).items():
        shown = [pictures[index] for index in _spread(len(pictures), per_group)]
        cells = [_fit(_with_boxes(*read())) for read in shown]
        grid = _grid(cells, columns)
        title = np.full((_LINE, grid.shape[1], 3), _PAPER, np.uint8)
        text = f"{name}: {len(shown)} of {len(pictures)} pictures or clips"
        cv2.putText(title, text, (_GAP, _LINE - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
        parts += [title, grid]
    width = max(part.shape[1] for part in parts)
    return np.concatenate([_pad(part, part.shape[0], width) for part in parts])


def picture_format(path: Path) -> str:
    """The suffix of a picture's file. ConfigError for one that is neither .png nor .jpg."""
    suffix = path.suffix.lower()
    if suffix not in (".png", ".jpg"):
        raise ConfigError(f"{path}: expected a picture's name that ends in .png or .jpg")
    return suffix


def write_picture(path: Path, image: np.ndarray) -> None:
    """ConfigError as `picture_format`, SinkError."""
    done, data = cv2.imencode(picture_format(path), image)
    if not done:
        raise ConfigError(f"{path}: {image.shape[1]} x {image.shape[0]} pixels are too many for {path.suffix}: draw fewer pairs, or a .png")
    with PendingFile(path) as pending:
        pending.partial.write_bytes(data.tobytes())


def _pictures(pool: Pool) -> dict[str, list[Callable[[], tuple[np.ndarray, np.ndarray]]]]:
    """What gives each picture with its boxes, by group; of tracks that share their frames one frame. Only what is shown is read."""
    groups = {name: [functools.partial(_still, still) for still in stills] for name, stills in pool.stills.items()}
    return groups | {
        name: [functools.partial(_best_frame, tracks) for tracks in tracks_by_video(clips).values()] for name, clips in pool.clips.items()
    }


def _still(still: Still) -> tuple[np.ndarray, np.ndarray]:
    return still.image, still.boxes


def _best_frame(tracks: Sequence[Clip]) -> tuple[np.ndarray, np.ndarray]:
    """The frame nearest to the middle of those in which most tracks have a box, and a row for each track: NaN where it has none."""
    count = max(len(track.boxes) for track in tracks)
    there = np.zeros((len(tracks), count), bool)
    for row, track in zip(there, tracks, strict=True):
        row[track.valid] = True
    best = np.flatnonzero(there.sum(0) == there.sum(0).max())
    index = int(best[np.abs(best - count // 2).argmin()])
    boxes = [track.boxes[index] if here else np.full(4, np.nan) for track, here in zip(tracks, there[:, index], strict=True)]
    return tracks[0].frames[index], np.array(boxes)


def _spread(count: int, most: int) -> list[int]:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


def _with_boxes(image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """A copy with its boxes drawn, lines as wide as they have to be to be seen in a cell."""
    drawn = image.copy()
    width = max(1, round(1.5 * max(image.shape[1] / _CELL[0], image.shape[0] / _CELL[1])))
    for number, box in enumerate(boxes):
        if np.isfinite(box).all():
            _draw(drawn, box, _TRACKS[number % len(_TRACKS)], width)
    return drawn


def _draw_target(crop: np.ndarray, box: Tensor) -> None:
    """Its box, cx, cy, w, h over the crop's side."""
    middle, extent = (part.numpy() * crop.shape[0] for part in (box[:2], box[2:]))
    _draw(crop, np.concatenate([middle - extent / 2, extent]), _BOX)


def _draw(image: np.ndarray, box: np.ndarray, colour: tuple[int, int, int], width: int = 1) -> None:
    low, high = np.round(box[:2]).astype(int), np.round(box[:2] + box[2:]).astype(int)
    cv2.rectangle(image, low.tolist(), high.tolist(), colour, width)


def _bgr(crop: Tensor) -> np.ndarray:
    return np.ascontiguousarray(crop.numpy()[..., ::-1])


def _fit(image: np.ndarray) -> np.ndarray:
    """The whole picture in a cell."""
    factor = min(_CELL[0] / image.shape[1], _CELL[1] / image.shape[0])
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    return _pad(cv2.resize(image, size, interpolation=cv2.INTER_AREA), _CELL[1], _CELL[0])


def _pad(image: np.ndarray, height: int, width: int) -> np.ndarray:
    padded = np.full((height, width, 3), _PAPER, np.uint8)
    padded[: image.shape[0], : image.shape[1]] = image
    return padded


def _row(cells: Sequence[np.ndarray]) -> np.ndarray:
    height = max(cell.shape[0] for cell in cells)
    return np.concatenate([_pad(cell, height, cell.shape[1] + _GAP) for cell in cells], axis=1)


def _grid(cells: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Cells of one size in rows of `columns`, the last row filled up with paper."""
    height, width = cells[0].shape[:2]
    rows = -(-len(cells) // columns)
    sheet = np.full((rows * (height + _GAP), columns * (width + _GAP), 3), _PAPER, np.uint8)
    for number, cell in enumerate(cells):
        top, left = (number // columns) * (height + _GAP), (number % columns) * (width + _GAP)
        sheet[top : top + height, left : left + width] = cell
    return sheet
