"""Follows the clips with every contender in processes of one thread each. Boxes are kept: what has been followed once is not followed again."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np

import esat_kernels
from benchmarks.selection.clips import Excerpt
from engine.datasets.text import Floats
from engine.errors import DatasetError
from engine.evaluation.tracking import Settings
from engine.files import PendingFile
from engine.training.follow import Follow, harness, product

Boxes = dict[tuple[str, str], Floats]  # [n, 4] by contender's name and clip's name


@dataclasses.dataclass(frozen=True)
class Contender:
    """Weights, a preset's name or a .safetensors file; or a peer, a Python file that `follow.harness` loads."""

    name: str
    source: str
    peer: bool = False
    dtype: str = "fp32"

    @functools.cached_property
    def key(self) -> str:
        """Names the kept results: they hold for the same weights, code of a peer, dtype, set of instructions and version of this package."""
        if self.peer:
            files = sorted(path for path in Path(self.source).parent.iterdir() if path.is_file())
            text = json.dumps([[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in files])
        else:
            isa = esat_kernels.cpu_isa() if esat_kernels.backends()["cpu"] is None else "none"
            text = json.dumps([Settings(self.source, "cpu", self.dtype, loop="public").key(), isa])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def open(self) -> Follow:
        """ConfigError, WeightsError, DatasetError."""
        return harness(Path(self.source)) if self.peer else product(self.source, self.dtype)


def follow_all(
    contenders: Sequence[Contender], clips: Sequence[Excerpt], cache: Path, workers: int, report: Callable[[int], None]
) -> Boxes:
    """The boxes of all. report(frames done) as clips end. Clips of one name differ in length alone: the longest one is
    followed. SinkError, and what the trackers raise."""
    longest = {clip.name: clip for clip in sorted(clips, key=len)}
    found = kept(contenders, list(longest.values()), cache)
    report(sum(len(boxes) for boxes in found.values()))
    todo = [
        (contender, longest[name])
        for name in dict.fromkeys(clip.name for clip in clips)  # all contenders' boxes of a clip are there before the next one begins
        for contender in contenders
        if (contender.name, name) not in found
    ]
    if not todo:
        return found
    context = multiprocessing.get_context("spawn")  # forking a process that has run PyTorch's threads may hang
    with ProcessPoolExecutor(workers, context, initializer=_start) as pool:
        waiting = {pool.submit(_run, contender, clip, cache): (contender, clip) for contender, clip in todo}
        try:
            for future in as_completed(waiting):
                contender, clip = waiting[future]
                found[contender.name, clip.name] = future.result()
                report(len(clip))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return found


def kept(contenders: Sequence[Contender], clips: Sequence[Excerpt], cache: Path) -> Boxes:
    """What `follow_all` need not follow, as it gives it."""
    found = {}
    for clip in clips:
        mark = clip.mark
        for contender in contenders:
            boxes = _load(_path(cache, contender, clip), mark, len(clip))
            if boxes is not None:
                found[contender.name, clip.name] = boxes
    return found


def _load(path: Path, mark: str, count: int) -> Floats | None:
    """Kept boxes of a clip, the first `count` of them; None if there are fewer, or if they are of other frames."""
    try:
        content = json.loads(path.read_text())
        boxes = np.array(content["boxes"], np.float64)
        same = content["mark"] == mark
    except (OSError, ValueError, LookupError, TypeError):
        return None
    fit = boxes.ndim == 2 and boxes.shape[1] == 4 and len(boxes) >= count and bool(np.isfinite(boxes).all())
    return boxes[:count] if same and fit else None


def _path(cache: Path, contender: Contender, clip: Excerpt) -> Path:
    return cache / contender.key / f"{clip.name}.json"


def _start() -> None:
    os.environ["OMP_THREAD_LIMIT"] = "1"  # before a peer's library is loaded, which may ask for more
    from engine.workers import use_threads

    use_threads()


@functools.cache  # a worker opens each contender once
def _open(contender: Contender) -> Follow:
    return contender.open()


def _run(contender: Contender, clip: Excerpt, cache: Path) -> Floats:
    boxes = np.array(list(_open(contender)(clip.frames(), clip.boxes()[0])))
    if len(boxes) != len(clip) or not np.isfinite(boxes).all():
        raise DatasetError(f"{contender.name}, {clip.name}: expected {len(clip)} boxes of finite numbers, got {len(boxes)}")
    boxes = np.round(boxes, 4)
    with PendingFile(_path(cache, contender, clip)) as pending:
        pending.partial.write_text(json.dumps({"mark": clip.mark, "boxes": boxes.tolist()}))
    return boxes
