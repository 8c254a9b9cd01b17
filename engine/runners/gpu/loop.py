"""A loop in which the host never waits for a frame: boxes stay on the device, frame t + 1 is uploaded while frame t runs.

    loop = FrameLoop(runner)                        # one video stream with one target; [4] is four targets, [1, 1] two streams with one each
    loop.init(0, first_frame, box)
    for frame in video:
        loop.submit(frame)                          # returns at once
        for done in loop.results():                 # what is finished by now, in order
            print(done.frame_index, done.targets[0].box)
    loop.results(wait=True)                         # the rest

The host keeps each target's state machine (`engine.tracking.target`). Where it moves a box, which a lost target may need, the box is written into the
device's state in front of the next frame that is submitted.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.boxes import Box
from engine.errors import BoxError, ConfigError, FrameError, StateError
from engine.frames import check_frame
from engine.runners.gpu.frame import FramePlan, FrameResult
from engine.runners.gpu.runner import GpuRunner, observation
from engine.runners.gpu.streams import Done, Mark
from engine.tracking.state import StateThresholds
from engine.tracking.target import Result, Target

_SLOTS = 2  # frames that have memory on the device at the same time: one is uploaded while the other runs


@dataclasses.dataclass(frozen=True)
class LoopResult:
    """One finished frame: a result for each place that had a target."""

    frame_index: int
    targets: dict[int, Result]


@dataclasses.dataclass
class _Followed:
    """A place's target: the box that the device searches around, and boxes that it gets with a later frame."""

    target: Target
    stream: int
    box: Box
    written: deque[tuple[int, Box]] = dataclasses.field(default_factory=deque)


@dataclasses.dataclass
class _Pending:
    """A frame that has been submitted."""

    index: int
    sizes: list[tuple[int, int]]  # width, height of each video stream
    tensors: list[Tensor]  # frames that the upload reads where they lie: PyTorch's allocator knows nothing of its stream
    followed: dict[int, _Followed]
    read: Mark


class FrameLoop:
    """targets: places for targets in each video stream, a batch of sum(targets); a place without a target runs along without a result.

    color and thresholds as `TrackerConfig`. pending: frames that may be submitted and not yet read; the next `submit` waits for the oldest.
    ConfigError for arguments. One loop serves one thread.
    """

    def __init__(
        self,
        runner: GpuRunner,
        targets: Sequence[int] = (1,),
        color: str = "bgr",
        thresholds: StateThresholds | None = None,
        pending: int = 8,
    ):
        if not targets or any(count < 1 for count in targets):
            raise ConfigError(f"targets must be positive numbers, one for each video stream, got {tuple(targets)}")
        if color not in ("bgr", "rgb"):
            raise ConfigError(f"color must be 'bgr' or 'rgb', got {color!r}")
        if pending < 1:
            raise ConfigError(f"pending must be at least 1, got {pending}")
        self._runner, self._bgr, self._thresholds = runner, color == "bgr", thresholds or StateThresholds()
        self._streams = runner.streams
        self.plan = FramePlan(runner.network, runner.streams, targets, _SLOTS)
        self._stream_of = [stream for stream, count in enumerate(targets) for _ in range(count)]
        batch = self.plan.batch
        self._records = self._streams.staging(pending * batch * 8, torch.float64).view(pending, batch, 8)
        self._features = self._streams.staging(pending * batch * runner.config.dim, torch.float32).view(pending, batch, -1)
        self._written = self._streams.staging(batch * 4, torch.float64).view(batch, 4)
        self._write_mark: list[Mark] = [Done()] * batch
        self._results: list[FrameResult | None] = [None] * _SLOTS
        self._uploaded: list[Mark] = [Done()] * _SLOTS
        self._computed: list[Mark] = [Done()] * _SLOTS
        self._read: list[Mark] = [Done()] * _SLOTS
        self._staging = [[self.plan.staging() for _ in targets] for _ in range(_SLOTS)]
        self._followed: dict[int, _Followed] = {}
        self._pending: deque[_Pending] = deque()
        self._finished: deque[LoopResult] = deque()
        self._next = 0

    def init(self, place: int, frame: NDArray[np.uint8], box: Any) -> None:
        """Follow what `box` (x, y, w, h) holds in `frame` from the next submitted frame on, instead of what was followed at this place.

        Nothing is captured again. FrameError, BoxError; StateError for a place that is not there.
        """
        self._check_place(place)
        target = Target(self._runner, check_frame(frame), box, self._bgr, self._thresholds)
        followed = _Followed(target, self._stream_of[place], target.box)
        self._streams.run("compute", lambda: self.plan.place(place, target.template))
        self._followed[place] = followed
        self._write(place, target.box)

    def remove(self, place: int) -> None:
        """Stop following the target of a place. Frames that are submitted already still give its results. StateError without one."""
        self._target_of(place)
        del self._followed[place]

    def write_box(self, place: int, box: Any) -> None:
        """Search around `box` (x, y, w, h in pixels of the frame) in the next submitted frame. BoxError, StateError."""
        followed = self._target_of(place)
        try:
            x, y, w, h = (float(value) for value in box)
        except (TypeError, ValueError) as error:
            raise BoxError(f"box must be four numbers x, y, w, h, got {box!r}") from error
        if not np.isfinite([x, y, w, h]).all() or w <= 0 or h <= 0:
            raise BoxError(f"box must be finite with a positive width and height, got {box!r}")
        followed.written.append((self._next, (x, y, w, h)))
        self._write(place, (x, y, w, h))

    def submit(self, *frames: NDArray[np.uint8] | Tensor) -> int:
        """Start the next frame of every video stream (one argument each). Returns its index, counted from 0.

        A frame is an array as for `Tracker.update`, or a uint8 tensor [H, W, 3] without gaps in pinned or device memory, which is not copied on
        the host and has to stay unchanged until its result has been read. FrameError; StateError without a target.
        """
        if len(frames) != len(self.plan.targets):
            raise FrameError(f"expected {len(self.plan.targets)} frames, one for each video stream, got {len(frames)}")
        if not self._followed:
            raise StateError("submit() needs a target: call init(place, frame, box) first")
        checked = [frame if _lies_ready(frame) else check_frame(frame) for frame in frames]
        self._make_room(max(3 * frame.shape[0] * frame.shape[1] for frame in checked))
        while len(self._pending) >= len(self._records):
            self._collect()
        index, slot = self._next, self._next % _SLOTS
        ring = index % len(self._records)
        record, features = self._records[ring], self._features[ring]
        self._uploaded[slot].wait()  # the frame before last has left the host's memory
        copies = [copy for stream, frame in enumerate(checked) for copy in self._prepare(slot, stream, frame)]
        execute = self.plan.executable(slot, self._bgr)

        def upload() -> None:
            for source, memory in copies:
                memory.copy_(source, non_blocking=True)

        def compute() -> None:
            self._results[slot] = execute()

        def download() -> None:
            result = self._results[slot]
            assert result is not None
            record.copy_(result.record, non_blocking=True)
            features.copy_(result.features, non_blocking=True)

        self._uploaded[slot] = self._streams.run("upload", upload, after=[self._computed[slot]])
        self._computed[slot] = self._streams.run("compute", compute, after=[self._uploaded[slot], self._read[slot]])
        self._read[slot] = self._streams.run("download", download, after=[self._computed[slot]])
        sizes = [(frame.shape[1], frame.shape[0]) for frame in checked]
        tensors = [frame for frame in checked if isinstance(frame, Tensor)]
        self._pending.append(_Pending(index, sizes, tensors, dict(self._followed), self._read[slot]))
        self._next += 1
        return index

    def results(self, wait: bool = False) -> list[LoopResult]:
        """The frames that have finished since the last call, in order; with `wait`, all that were submitted."""
        while self._pending and (wait or self._pending[0].read.done()):
            self._collect()
        finished = list(self._finished)
        self._finished.clear()
        return finished

    def _check_place(self, place: int) -> None:
        if place not in range(self.plan.batch):
            raise StateError(f"there is no place {place!r}: places are 0 to {self.plan.batch - 1}")

    def _target_of(self, place: int) -> _Followed:
        self._check_place(place)
        if place not in self._followed:
            raise StateError(f"no target is followed at place {place}: call init({place}, frame, box) first")
        return self._followed[place]

    def _make_room(self, size: int) -> None:
        if size > self.plan.frames[0][0].pixels.numel():
            while self._pending:
                self._collect()
            self.plan.reserve(size)
            self._staging = [[self.plan.staging() for _ in slot] for slot in self._staging]

    def _prepare(self, slot: int, stream: int, frame: NDArray[np.uint8] | Tensor) -> list[tuple[Tensor, Tensor]]:
        """The copies, source and destination, that bring a frame to the device."""
        staging, device = self._staging[slot][stream], self.plan.frames[slot][stream]
        if isinstance(frame, np.ndarray):
            used = staging.fill(frame)
            return [(staging.memory[:used], device.memory[:used])]
        staging.size[0], staging.size[1] = frame.shape[0], frame.shape[1]
        return [(staging.size, device.size), (frame.view(-1), device.pixels[: frame.numel()])]

    def _collect(self) -> None:
        """Take up the oldest frame's record, waiting for it."""
        pending = self._pending.popleft()
        pending.read.wait()
        ring = pending.index % len(self._records)
        rows, features = self._records[ring].tolist(), self._features[ring].numpy()
        found = {
            place: self._advance(place, followed, rows[place], features[place].copy(), pending)
            for place, followed in pending.followed.items()
        }
        self._finished.append(LoopResult(pending.index, found))

    def _advance(self, place: int, followed: _Followed, record: list[float], features: NDArray[np.float32], pending: _Pending) -> Result:
        """The host's view of one target's frame; what the host changes of the box goes to the device."""
        while followed.written and followed.written[0][0] <= pending.index:
            followed.box = followed.written.popleft()[1]
        target, seen = followed.target, observation(record, features)
        result = target.advance(seen, followed.box, pending.sizes[followed.stream], {})
        followed.box = seen.box
        if target.search_box != followed.box and not followed.written and self._followed.get(place) is followed:
            self.write_box(place, target.search_box)
        return result

    def _write(self, place: int, box: Box) -> None:
        """Put a box into the device's state in front of the next frame."""
        self._write_mark[place].wait()  # an earlier box has left the host's memory
        row = self._written[place]
        row.copy_(torch.tensor(box, dtype=torch.float64))
        self._write_mark[place] = self._streams.run("compute", lambda: self.plan.boxes[place].copy_(row, non_blocking=True))


def _lies_ready(frame: object) -> bool:
    """Whether a frame can be copied to the device as it is."""
    return isinstance(frame, Tensor) and frame.dtype == torch.uint8 and frame.dim() == 3 and frame.shape[2] == 3 and frame.is_contiguous()
