"""Frames and boxes as NumPy arrays and as PyTorch tensors."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

from engine import MultiTracker, Nv12, Tracker, frames
from engine.boxes import check_box
from engine.errors import BoxError, FrameError
from engine.frames import check_frame, made_by

FRAMES = [np.random.default_rng(seed).integers(0, 256, (120, 160, 3), np.uint8) for seed in range(3)]
BOX = (50.0, 40.0, 30.0, 24.0)


@pytest.mark.parametrize("make", [torch.from_numpy, lambda array: torch.from_numpy(array.transpose(2, 0, 1).copy()).permute(1, 2, 0)])
def test_tensors_are_followed_as_arrays_are(make, tiny_weights):
    tracker = Tracker(tiny_weights, device="cpu", dtype="fp32")
    results = {}
    for kind, convert in (("array", lambda array: array), ("tensor", make)):
        tracker.init(convert(FRAMES[0]), BOX if kind == "array" else torch.tensor(BOX))
        several = MultiTracker(tracker.runner)
        several.add(convert(FRAMES[0]), np.array(BOX))
        found = [tracker.update(convert(frame)) for frame in FRAMES[1:]]
        assert [several.update(convert(frame))[0].box for frame in FRAMES[1:]] == [result.box for result in found]
        results[kind] = [(result.box, result.score) for result in found]
    assert results["array"] == results["tensor"]


def test_a_tensor_on_the_host_is_not_copied():
    frame = torch.from_numpy(FRAMES[0])
    assert np.shares_memory(check_frame(frame), FRAMES[0])
    turned = frame.permute(2, 0, 1).contiguous()
    assert check_frame(turned.permute(1, 2, 0)).__array_interface__["data"][0] == turned.data_ptr()


@pytest.mark.gpu
def test_a_tensor_on_a_gpu_is_taken():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    assert (check_frame(torch.from_numpy(FRAMES[0]).cuda()) == FRAMES[0]).all()
    assert check_box(torch.tensor(BOX, device="cuda"), 160, 120) == BOX


@pytest.mark.parametrize("shape", [(4, 4, 3), (4, 4), (4, 4, 1), (4, 4, 4)])
def test_channels(shape):
    frame = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    expected = frame[:, :, :3] if shape[2:] and shape[2] > 1 else np.repeat(frame.reshape(4, 4, 1), 3, axis=2)
    for form in (frame, torch.from_numpy(frame)):
        assert (check_frame(form) == expected).all()


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (torch.zeros(3, 120, 160, dtype=torch.uint8), r"looks like \[C, H, W\]: pass frame.permute\(1, 2, 0\)"),
        (np.zeros((3, 120, 160), np.uint8), r"looks like \[C, H, W\]: pass frame.transpose\(1, 2, 0\)"),
        (torch.zeros(1, 3, 120, 160, dtype=torch.uint8), r"must be \[H, W, 3\].*got \(1, 3, 120, 160\)"),
        (torch.zeros(120, 160, 3), "must be uint8 .* got torch.float32"),
        (torch.zeros(120, 160, 3, dtype=torch.bfloat16), "must be uint8 .* got torch.bfloat16"),
        (np.zeros((120, 160, 3)), "must be uint8 .* got float64"),
        (torch.zeros(0, 160, 3, dtype=torch.uint8), "with H, W > 0"),
        ([[0]], "NumPy array or PyTorch tensor uint8"),
    ],
)
def test_what_is_no_frame(frame, message):
    with pytest.raises(FrameError, match=message):
        check_frame(frame)


@pytest.mark.parametrize("box", [torch.zeros(2, 4), torch.zeros(3), torch.tensor(1.0), torch.tensor([1.0, 2.0, float("nan"), 4.0])])
def test_tensors_that_are_no_box(box):
    with pytest.raises(BoxError, match="box must be four"):
        check_box(box, 160, 120)


def test_a_tensor_on_the_runner_s_device_stays_there():
    """Tensors without values: who copies one to the host raises."""
    device = torch.device("meta")
    frame, grey, wide = (torch.empty(*shape, dtype=torch.uint8, device=device) for shape in ((9, 7, 3), (9, 7), (9, 7, 4)))
    assert check_frame(frame, device) is frame
    for other in (grey, wide):
        assert check_frame(other, device).device == device
        assert check_frame(other, device).shape == (9, 7, 3)
    planes = Nv12(grey, torch.empty(5, 4, 2, dtype=torch.uint8, device=device), "bt709")
    assert check_frame(planes, torch.device("cpu"), device).luma is grey
    with pytest.raises(NotImplementedError):
        check_frame(frame)
    with pytest.raises(FrameError, match="must be on one device, got meta and cpu"):
        check_frame(Nv12(grey, torch.empty(5, 4, 2, dtype=torch.uint8), "bt709"), device)


def test_two_planes():
    luma, chroma = np.zeros((5, 6), np.uint8), np.zeros((3, 3, 2), np.uint8)
    arrays = check_frame(Nv12(torch.from_numpy(luma), torch.from_numpy(chroma), "bt601"))
    assert np.shares_memory(arrays.luma, luma)
    assert np.shares_memory(arrays.chroma, chroma)
    assert arrays.shape == (5, 6)
    with pytest.raises(FrameError, match="matrix must be bt601 or bt709, got 'srgb'"):
        check_frame(Nv12(luma, chroma, "srgb"))


class OnGpu(torch.Tensor):
    """Says that it lies on the first GPU."""

    device = property(lambda self: torch.device("cuda:0"))


class Event:
    """In place of torch.cuda.Event, which only a machine with CUDA makes."""

    def __init__(self, *_):
        self.calls = []

    def synchronize(self):
        self.calls.append("host")


class Stream:
    def __init__(self, *_):
        self.device, self.calls = torch.device("cuda:0"), []

    def synchronize(self):
        self.calls.append("host")

    def wait_event(self, event):
        self.calls.append(event)


@pytest.fixture
def cuda_calls(monkeypatch):
    """What enters and leaves as the current stream."""
    entered = []

    @contextlib.contextmanager
    def current(stream):
        entered.append(stream)
        yield

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", current)
    frames._waiting_stream.cache_clear()
    yield entered
    frames._waiting_stream.cache_clear()


def test_work_on_a_frame_comes_behind_the_stream_or_event_that_it_is_ready_with(cuda_calls):
    cuda, stream, event = torch.device("cuda:0"), Stream(), Event()
    for ready in (None, stream, event, event):
        with made_by(ready, cuda, torch.empty(0).as_subclass(OnGpu)):
            pass
    assert cuda_calls[0] is stream
    assert cuda_calls[1] is cuda_calls[2]
    assert cuda_calls[1].calls == [event, event]
    assert stream.calls == event.calls == []


@pytest.mark.parametrize(
    ("device", "frame"),
    [
        (None, FRAMES[0]),
        (torch.device("cpu"), torch.from_numpy(FRAMES[0])),
        (torch.device("cuda:0"), FRAMES[0]),
        (torch.device("cuda:0"), torch.from_numpy(FRAMES[0])),  # pinned memory, say, that a stream is still writing
        (torch.device("cuda:1"), torch.empty(0).as_subclass(OnGpu)),  # the stream is cuda:0's, and so is the frame
    ],
)
def test_the_host_waits_for_a_frame_that_it_reads_itself(cuda_calls, device, frame):
    stream = Stream()
    with made_by(stream, device, frame):
        assert stream.calls == ["host"]
    assert cuda_calls == []


def test_trackers_pass_on_what_a_frame_is_ready_with(cuda_calls, tiny_weights):
    tracker, several = Tracker(tiny_weights, device="cpu", dtype="fp32"), MultiTracker(tiny_weights, device="cpu", dtype="fp32")
    ready = [Event() for _ in range(5)]
    tracker.init(FRAMES[0], BOX, ready[0])
    tracker.update(FRAMES[1], ready[1])
    target = several.add(FRAMES[0], BOX, ready[2])
    several.restart(target, FRAMES[0], BOX, ready[3])
    several.update(FRAMES[1], ready[4])
    assert [event.calls for event in ready] == [["host"]] * 5
    with pytest.raises(FrameError, match=r"ready must be a torch.cuda.Stream or a torch.cuda.Event, got int"):
        tracker.update(FRAMES[1], 3)
