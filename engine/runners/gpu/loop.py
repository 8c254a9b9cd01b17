"""A loop in which the host never waits for a frame: boxes stay on the device, frame t + 1 is uploaded while frame t runs.

    loop = FrameLoop(runner)                        # one video stream with one target; [4] is four targets, [1, 1] two streams with one each
    loop.init(0, first_frame, box)
    for frame in video:
        loop.submit(frame)                          # returns at once
        for done in loop.results():                 # what is finished by now, in order
            print(done.frame_index, done.targets[0].box)
    loop.results(wait=True)                         # the rest

The host keeps each target's state machine (`engine.tracking.target`). A lost target's second region is another row of the same batch, which only
frames with a lost target compute. Where the host moves a box, it is written into the device's state in front of the next frame that is submitted;
where it takes the second region's hypothesis, the two rows change places on the device, and lose no frame by that.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.boxes import Box
from engine.errors import BoxError, ConfigError, FrameError, StateError
from engine.frames import Frame, check_frame, made_by, matrix_of
from engine.runners.gpu.followed import Change, Followed
from engine.runners.gpu.frame import IDLE_BOX, RECORD, FramePlan, FrameResult
from engine.runners.gpu.memory import Rows, bytes_of, rows_read, tensors_of
from engine.runners.gpu.runner import GpuRunner, observation, upload
from engine.runners.gpu.streams import Done, Mark
from engine.runners.protocol import Observation
from engine.tracking.config import TrackerConfig
from engine.tracking.target import Result, check_seen, make_target

_BUFFERS = 2  # frames that have memory on the device at the same time: one is uploaded while the other runs


@dataclasses.dataclass(frozen=True)
class LoopResult:
    """One finished frame: a result for each slot that had a target."""

    frame_index: int
    targets: dict[int, Result]


class DeviceResult(NamedTuple):
    """The regions of the targets in one frame, on the device, in the order of their slots."""

    frame_index: int
    record: Tensor  # float64 [slots, 12]: box x, y, w, h (pixels, clipped), score, weighted score, ...: `esat_kernels.advance_boxes`
    features: Tensor  # float32 [slots, dim], what the encoder saw around the chosen cell


@dataclasses.dataclass
class _Pending:
    """A frame that has been submitted."""

    index: int
    sizes: list[tuple[int, int]]  # width, height of each video stream
    tensors: list[Tensor]  # frames that the upload reads where they lie: PyTorch's allocator knows nothing of its stream
    followed: dict[int, Followed]
    beside: set[int]  # slots that looked at two regions
    read: Mark


class FrameLoop:
    """targets: slots for targets in each video stream, a batch of sum(targets); a slot without a target runs along without a result.

    pending: frames that may be submitted and not yet read; the next `submit` waits for the oldest.
    ConfigError for arguments. One loop serves one thread.
    """

    def __init__(
        self,
        runner: GpuRunner,
        targets: Sequence[int] = (1,),
        config: TrackerConfig | None = None,
        pending: int = 8,
    ):
        if not targets or any(count < 1 for count in targets):
            raise ConfigError(f"targets must be positive numbers, one for each video stream, got {tuple(targets)}")
        if pending < 1:
            raise ConfigError(f"pending must be at least 1, got {pending}")
        self._runner, self._config = runner, config or TrackerConfig()
        self._bgr = self._config.color == "bgr"
        self._streams = runner.streams
        self.plan = FramePlan(runner.network, runner.streams, targets, _BUFFERS, beside=self._config.loop != "public")
        self._stream_of = [stream for stream, count in enumerate(targets) for _ in range(count)]
        rows = self.plan.rows
        self._records = self._streams.staging(pending * rows * RECORD, torch.float64).view(pending, rows, RECORD)
        self._features = self._streams.staging(pending * rows * runner.config.dim, torch.float32).view(pending, rows, -1)
        self._written = self._streams.staging(rows * 4, torch.float64).view(rows, 4)
        self._write_mark: list[Mark] = [Done()] * rows
        self._results: list[FrameResult | None] = [None] * _BUFFERS
        self._uploaded: list[Mark] = [Done()] * _BUFFERS
        self._computed: list[Mark] = [Done()] * _BUFFERS
        self._read: list[Mark] = [Done()] * _BUFFERS
        self._staging = [[self.plan.staging() for _ in targets] for _ in range(_BUFFERS)]
        self._followed: dict[int, Followed] = {}
        self._pending: deque[_Pending] = deque()
        self._finished: deque[LoopResult] = deque()
        self._next = 0

    def init(self, slot: int, frame: Frame, box: Any, ready: Any = None) -> None:
        """Follow what `box` (x, y, w, h) holds in `frame` from the next submitted frame on, instead of what was followed at this slot.

        Frames and `ready` as for `Tracker.init`. Nothing is captured again. FrameError, BoxError; StateError for a slot that is not there.
        """
        self._check_slot(slot)
        target = make_target(self._runner, frame, box, self._config, ready)
        followed = Followed(target, self._stream_of[slot], [target.box, IDLE_BOX])
        self._streams.run("compute", lambda: self.plan.set_template(slot, target.template))
        self._followed[slot] = followed
        self._write(slot, target.box)

    def remove(self, slot: int) -> None:
        """Stop following the target of a slot. Frames that are submitted already still give its results. StateError without one."""
        self._target_of(slot)
        del self._followed[slot]

    def write_box(self, slot: int, box: Any) -> None:
        """Search around `box` (x, y, w, h in pixels of the frame) in the next submitted frame. BoxError, StateError."""
        followed = self._target_of(slot)
        try:
            x, y, w, h = (float(value) for value in box)
        except (TypeError, ValueError) as error:
            raise BoxError(f"box must be four numbers x, y, w, h, got {box!r}") from error
        if not np.isfinite([x, y, w, h]).all() or w <= 0 or h <= 0:
            raise BoxError(f"box must be finite with a positive width and height, got {box!r}")
        self._change(slot, followed, 0, (x, y, w, h))

    def submit(self, *frames: Frame, ready: Any = None) -> int:
        """Start the next frame of every video stream (one argument each). Returns its index, counted from 0.

        Frames and `ready` as for `Tracker.update`. A tensor in device memory, or without gaps in pinned memory, is not copied on the host and has to
        stay unchanged until its result has been read. Where all earlier frames have been read, the host knows the boxes, and sends the rows that
        their crops read; else whole frames. FrameError; StateError without a target.
        """
        if len(frames) != len(self.plan.targets):
            raise FrameError(f"expected {len(self.plan.targets)} frames, one for each video stream, got {len(frames)}")
        if not self._followed:
            raise StateError("submit() needs a target: call init(slot, frame, box) first")
        device = self._runner.frames_on
        with made_by(ready, device, *frames):
            return self._submit([_readable(check_frame(frame, device, torch.device("cpu"))) for frame in frames])

    def _submit(self, frames: list[Frame]) -> int:
        self._make_room(max(bytes_of(frame) for frame in frames))
        while len(self._pending) >= len(self._records):
            self._collect()
        index, buffer = self._next, self._next % _BUFFERS
        ring = index % len(self._records)
        record, features = self._records[ring], self._features[ring]
        self._uploaded[buffer].wait()  # the frame before last has left the host's memory
        beside = {slot for slot, followed in self._followed.items() if followed.target.beside is not None}
        execute = self.plan.executable(buffer, self._bgr, bool(beside), tuple(matrix_of(frame) for frame in frames))
        copies = []
        for stream, frame in enumerate(frames):
            memory, staging = self.plan.frames[buffer][stream], self._staging[buffer][stream]
            copies += memory.bring(frame, staging, self._rows(stream, frame.shape[0], beside))
        tensors = [tensor for frame in frames for tensor in tensors_of(frame)]
        rows = self.plan.rows if beside else self.plan.batch

        def compute() -> None:
            self._results[buffer] = execute()

        def download() -> None:
            result = self._results[buffer]
            assert result is not None
            record[:rows].copy_(result.record, non_blocking=True)
            features[:rows].copy_(result.features, non_blocking=True)

        self._uploaded[buffer] = upload(self._streams, copies, tensors, self._computed[buffer])
        self._computed[buffer] = self._streams.run("compute", compute, after=[self._uploaded[buffer], self._read[buffer]])
        self._read[buffer] = self._streams.run("download", download, after=[self._computed[buffer]])
        sizes = [(frame.shape[1], frame.shape[0]) for frame in frames]
        self._pending.append(_Pending(index, sizes, tensors, dict(self._followed), beside, self._read[buffer]))
        self._next += 1
        return index

    def results(self, wait: bool = False) -> list[LoopResult]:
        """The frames that have finished since the last call, in order; with `wait`, all that were submitted.

        WeightsError where the network gives no finite numbers: that frame is lost, for all its targets alike.
        """
        while self._pending and (wait or self._pending[0].read.done()):
            self._collect()
        finished = list(self._finished)
        self._finished.clear()
        return finished

    def on_device(self) -> DeviceResult:
        """What the last submitted frame leaves on the device, in tensors of the caller's own; the host waits for nothing.

        Work that the caller gives to his current CUDA stream after the call sees them finished. What a target's state becomes is not known there:
        that takes the host, in `results`, which go on as ever. StateError before `submit`.
        """
        if self._next == 0:
            raise StateError("there is no result on the device: call submit(frame) first")
        buffer, batch, device = (self._next - 1) % _BUFFERS, self.plan.batch, self.plan.boxes.device
        record = torch.empty(batch, RECORD, dtype=torch.float64, device=device)
        features = torch.empty(batch, self._runner.config.dim, dtype=torch.float32, device=device)

        def copy() -> None:
            result = self._results[buffer]
            assert result is not None
            record.copy_(result.record[:batch])
            features.copy_(result.features[:batch])

        # The memory may still be read by the caller's earlier work.
        self._read[buffer] = self._streams.run("download", copy, after=[self._computed[buffer], self._streams.caller()])
        self._streams.hand_over(self._read[buffer])
        return DeviceResult(self._next - 1, record, features)

    def _check_slot(self, slot: int) -> None:
        if slot not in range(self.plan.batch):
            raise StateError(f"there is no slot {slot!r}: slots are 0 to {self.plan.batch - 1}")

    def _target_of(self, slot: int) -> Followed:
        self._check_slot(slot)
        if slot not in self._followed:
            raise StateError(f"no target is followed at slot {slot}: call init({slot}, frame, box) first")
        return self._followed[slot]

    def _make_room(self, size: int) -> None:
        if size > self.plan.frames[0][0].pixels.numel():
            while self._pending:
                self._collect()
            self.plan.reserve(size)
            self._staging = [[self.plan.staging() for _ in buffer] for buffer in self._staging]

    def _rows(self, stream: int, height: int, beside: set[int]) -> Rows | None:
        """The rows of a stream's next frame that its targets need; None: all, since frames are under way whose boxes the host does not know."""
        if self._pending:
            return None
        boxes = []
        for slot, followed in self._followed.items():
            if followed.stream == stream:
                boxes += followed.ahead(self._next)[: 2 if slot in beside else 1]
        return rows_read(boxes, self._runner.config.search_factor, height)

    def _collect(self) -> None:
        """Take up the oldest frame's record, waiting for it."""
        pending = self._pending.popleft()
        pending.read.wait()
        ring = pending.index % len(self._records)
        records, features = self._records[ring].tolist(), self._features[ring].numpy()

        seen: dict[int, dict[int, Observation]] = {}
        for slot, followed in pending.followed.items():
            followed.reach(pending.index)
            places = {row: slot + row * self.plan.batch for row in followed.order()[: 2 if slot in pending.beside else 1]}
            seen[slot] = {row: observation(records[place], features[place].copy()) for row, place in places.items()}
        check_seen([one for rows in seen.values() for one in rows.values()], self._runner)
        found = {slot: self._advance(slot, followed, seen[slot], pending) for slot, followed in pending.followed.items()}
        self._finished.append(LoopResult(pending.index, found))

    def _advance(self, slot: int, followed: Followed, seen: dict[int, Observation], pending: _Pending) -> Result:
        """The host's view of one target's frame, by its rows; what the host changes of its boxes goes to the device."""
        target, switches = followed.target, followed.target.switches
        searched = [followed.boxes[row] for row in seen]
        result = target.advance(list(seen.values()), searched, pending.sizes[followed.stream], {})
        for row, one in seen.items():
            followed.boxes[row] = one.box
        if self._followed.get(slot) is not followed:
            return result
        if target.switches != switches:
            followed.changes.append(Change(self._next))
            followed.crossed = not followed.crossed
            self._streams.run("compute", lambda: self._cross(slot))
        for row, wanted in enumerate(target.regions):
            if followed.boxes[row] != wanted and not followed.moved_later(row):
                self._change(slot, followed, row, wanted)
        return result

    def _cross(self, slot: int) -> None:
        """Let a target's two rows change places (work of the compute queue)."""
        boxes, other = self.plan.boxes, slot + self.plan.batch
        first = boxes[slot].clone()
        boxes[slot].copy_(boxes[other])
        boxes[other].copy_(first)

    def _change(self, slot: int, followed: Followed, row: int, box: Box) -> None:
        """Search around `box` in the next frame, in row 0 or 1 of a target."""
        followed.changes.append(Change(self._next, row, box))
        self._write(slot + row * self.plan.batch, box)

    def _write(self, row: int, box: Box) -> None:
        """Put a box into the device's state in front of the next frame."""
        self._write_mark[row].wait()  # an earlier box has left the host's memory
        values = self._written[row]
        values.copy_(torch.tensor(box, dtype=torch.float64))
        self._write_mark[row] = self._streams.run("compute", lambda: self.plan.boxes[row].copy_(values, non_blocking=True))


def _readable(frame: Frame) -> Frame:
    """A frame that the device can be given: tensors of the host with gaps are read as arrays."""
    if any(tensor.device.type == "cpu" and not tensor.is_contiguous() for tensor in tensors_of(frame)):
        return check_frame(frame)
    return frame
