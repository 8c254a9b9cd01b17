"""Frames and boxes as NumPy arrays and as PyTorch tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine import MultiTracker, Tracker
from engine.boxes import check_box
from engine.errors import BoxError, FrameError
from engine.frames import check_frame

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
