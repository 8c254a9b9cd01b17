"""Training pictures and boxes in a few small files, for a machine that the data sets do not fit on or cannot be copied to.

Shards are safetensors: an index by name in front, no code, nothing to unpack, and 100 bytes a picture, where a tar of such small pictures would
spend a third of its size on headers. A picture is one tensor of WebP bytes; boxes are tensors beside them:

    stills/GROUP/NUMBER            uint8 [bytes]
    stills/GROUP/boxes             float32 [n, 6]: picture's number, x, y, w, h in its pixels, class (-1: unknown)
    clips/GROUP/VIDEO/NUMBER       uint8 [bytes]
    clips/GROUP/VIDEO/boxes        float32 [tracks, frames, 4], NaN where a track has no box
    clips/GROUP/VIDEO/numbers      int32 [frames]: which frames of the video were kept
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from engine.config import ModelConfig
from engine.errors import ConfigError, DatasetError
from engine.files import PendingFile
from engine.training.settings import AugmentConfig
from engine.training.sources import Clip, Pool, Still, shrink, tracks_by_video, usable

FORMAT = "esat-pack-1"
PATTERN = "shard-*.safetensors"
_MIB = 2**20
_SAMPLE = 8  # every so-manieth picture is enough to foresee the size
_THREADS = 8

Entry = tuple[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Coding:
    """How small pictures are made: the longest side in pixels, WebP's quality, and every so-manieth frame of a clip."""

    longest: int
    quality: int
    step: int


# From good to small; the first that fits is taken.
CODINGS = tuple(
    Coding(*values)
    for values in (
        (512, 85, 1),
        (448, 80, 1),
        (384, 78, 2),
        (352, 75, 2),
        (320, 72, 3),
        (288, 68, 3),
        (256, 65, 4),
        (224, 60, 5),
        (192, 55, 6),
    )
)


def is_packed(folder: Path) -> bool:
    """Whether there are shards in the folder."""
    return any(folder.glob(PATTERN))


def context(boxes: np.ndarray, model: ModelConfig, augment: AugmentConfig, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The part (x1, y1, x2, y2) of a picture of `shape` [H, W, ...] that search regions around `boxes` [n, 4] reach but for rare ones."""
    size = np.sqrt(boxes[:, 2:].prod(1, keepdims=True)) * np.exp(2 * augment.scale_jitter)
    centre, half = boxes[:, :2] + boxes[:, 2:] / 2, size * (model.search_factor + augment.centre_jitter) / 2
    limit = np.array(shape[1::-1])
    low, high = (centre - half).min(0).clip(0), (centre + half).max(0)
    x1, y1 = (int(value) for value in np.floor(low))
    x2, y2 = (int(value) for value in np.minimum(np.ceil(high), limit))
    return x1, y1, x2, y2


def _encode(image: np.ndarray, quality: int) -> np.ndarray:
    return np.asarray(cv2.imencode(".webp", image, (cv2.IMWRITE_WEBP_QUALITY, quality))[1]).ravel()


def _encode_still(still: Still, coding: Coding, model: ModelConfig, augment: AugmentConfig) -> tuple[np.ndarray, np.ndarray]:
    """The picture's bytes and its table [n, 5] of boxes and classes; none if no box is large enough in the shrunk picture."""
    x1, y1, x2, y2 = context(still.boxes, model, augment, still.image.shape)
    image, factor = shrink(still.image[y1:y2, x1:x2], coding.longest)
    boxes = (still.boxes - [x1, y1, 0, 0]) * factor
    table = np.concatenate([boxes, still.classes[:, None]], 1)[usable(boxes)]
    return _encode(image, coding.quality), table


def _stills(
    pool: Pool, coding: Coding, model: ModelConfig, augment: AugmentConfig, step: int, threads: ThreadPoolExecutor
) -> Iterator[Entry]:
    for group, stills in pool.stills.items():
        rows: list[np.ndarray] = []
        encoded = threads.map(lambda still: _encode_still(still, coding, model, augment), stills[::step])
        for data, table in encoded:
            if len(table):
                number = len(rows)
                yield f"stills/{group}/{number:06d}", data
                rows.append(np.concatenate([np.full((len(table), 1), number), table], 1))
        if rows:
            yield f"stills/{group}/boxes", np.concatenate(rows).astype(np.float32)


def _clips(pool: Pool, coding: Coding, step: int, threads: ThreadPoolExecutor) -> Iterator[Entry]:
    for group, clips in pool.clips.items():
        for video, tracks in enumerate(tracks_by_video(clips).values()):
            count = min(len(track.boxes) for track in tracks)
            kept = np.arange(0, count, coding.step)
            factor = shrink(tracks[0].frames[0], coding.longest)[1]
            prefix = f"clips/{group}/{video:03d}"

            def encode(number: int, frames: Sequence[np.ndarray] = tracks[0].frames) -> np.ndarray:
                return _encode(shrink(frames[number], coding.longest)[0], coding.quality)

            for number, data in enumerate(threads.map(encode, kept[::step])):
                yield f"{prefix}/{number:06d}", data
            yield f"{prefix}/boxes", np.stack([track.boxes[kept] * factor for track in tracks]).astype(np.float32)
            yield f"{prefix}/numbers", tracks[0].times[kept].astype(np.int32)


def _entries(pool: Pool, coding: Coding, model: ModelConfig, augment: AugmentConfig, step: int = 1) -> list[Entry]:
    with ThreadPoolExecutor(_THREADS) as threads:
        return [*_stills(pool, coding, model, augment, step, threads), *_clips(pool, coding, step, threads)]


def _size(entries: Sequence[Entry]) -> int:
    return sum(value.nbytes + len(name) + 80 for name, value in entries)


def pack(pool: Pool, folder: Path, model: ModelConfig, augment: AugmentConfig, limit_mb: float, shard_mb: float) -> Coding:
    """Write the pool as shards of at most `shard_mb` MiB, `limit_mb` in all, into `folder`; returns the coding that was taken.

    The same pool gives the same bytes. ConfigError if even the smallest coding does not fit, or if the folder holds shards already.
    """
    if not 0 < shard_mb <= limit_mb:
        raise ConfigError(f"pack: expected 0 < shard size <= limit, got {shard_mb} and {limit_mb} MiB")
    if is_packed(folder):
        raise ConfigError(f"pack: {folder} holds shards already: name another folder, or remove them")
    foreseen = 0.0
    for coding in CODINGS:
        foreseen = _SAMPLE * _size(_entries(pool, coding, model, augment, _SAMPLE))
        if foreseen > 1.05 * limit_mb * _MIB:
            continue
        entries = _entries(pool, coding, model, augment)
        shards = _share_out(entries, shard_mb * _MIB)
        if sum(_size(shard) for shard in shards) <= limit_mb * _MIB:
            _write(shards, folder)
            return coding
    raise ConfigError(f"pack: the smallest coding needs about {foreseen / _MIB:.1f} MiB, the limit is {limit_mb} MiB")


def _share_out(entries: Sequence[Entry], limit: float) -> list[list[Entry]]:
    shards: list[list[Entry]] = [[]]
    size = 0
    for entry in entries:
        one = _size([entry])
        if shards[-1] and size + one > limit:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += one
    return shards


def _write(shards: Sequence[Sequence[Entry]], folder: Path) -> None:
    for number, shard in enumerate(shards):
        with PendingFile(folder / PATTERN.replace("*", f"{number:03d}")) as file:
            save_file(dict(shard), file.partial, {FORMAT: f"{number} of {len(shards)}"})  # one key: their order is not fixed


def read_packed(folder: Path) -> Pool:
    """The pool in the shards of `folder`, pictures decoded into memory. DatasetError if a shard is missing, foreign or damaged."""
    entries: dict[str, np.ndarray] = {}
    found: dict[int, int] = {}
    for path in sorted(folder.glob(PATTERN)):
        try:
            with safe_open(path, "np") as shard:
                about = shard.metadata() or {}
                if FORMAT not in about:
                    raise DatasetError(f"{path}: expected a shard of format {FORMAT}, got metadata {about}")
                number, _, total = about[FORMAT].partition(" of ")
                found[int(number)] = int(total)
                entries |= {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118  no mapping
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise DatasetError(f"{path}: cannot be read as a shard: {error}") from error
    count = max(found.values(), default=0)
    missing = sorted(set(range(count)) - set(found))
    if missing or len(set(found.values())) != 1:
        raise DatasetError(f"{folder}: expected the shards 0 to {count - 1} of one packing, missing are {missing}")
    with ThreadPoolExecutor(_THREADS) as threads:
        names = [name for name in entries if name.rsplit("/", 1)[1].isdigit()]
        pictures = dict(zip(names, threads.map(lambda name: _decode(name, entries[name]), names), strict=True))
    stills: dict[str, list[Still]] = {}
    clips: dict[str, list[Clip]] = {}
    for name in sorted(name for name in entries if name.endswith("/boxes")):
        prefix = name.removesuffix("/boxes")
        kind, group = prefix.split("/")[:2]
        shown = [pictures[key] for key in sorted(pictures) if key.startswith(f"{prefix}/")]
        if kind == "stills":
            stills[group] = _read_stills(shown, entries[name].astype(float))
        else:
            numbers = entries[f"{prefix}/numbers"]
            clips.setdefault(group, []).extend(Clip(shown, boxes, numbers) for boxes in entries[name].astype(float))
    return Pool(stills, {group: [clip for clip in tracks if len(clip.valid) >= 2] for group, tracks in clips.items()})


def _read_stills(pictures: list[np.ndarray], table: np.ndarray) -> list[Still]:
    groups = np.split(table, np.flatnonzero(np.diff(table[:, 0])) + 1)
    return [Still(pictures, int(rows[0, 0]), rows[:, 1:5], rows[:, 5].astype(int)) for rows in groups]


def _decode(name: str, data: np.ndarray) -> np.ndarray:
    image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if image is None:
        raise DatasetError(f"packed picture {name} cannot be decoded")
    return np.asarray(image)
