"""The GPU engine behind the `Runner` protocol, on the CPU with the reference kernels: the same boxes as PyTorch's engine."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from conformance import golden
from engine import MultiTracker, Tracker, TrackerConfig
from engine.errors import DeviceError
from engine.runners.choice import make_runner
from engine.runners.gpu import runner as gpu_runner
from engine.runners.gpu.runner import GpuRunner
from engine.runners.pytorch import TorchRunner
from tests.engine.runners.gpu import models

BOX, OTHER = (50.0, 40.0, 30.0, 24.0), (12.0, 20.0, 18.0, 30.0)
FRAMES = 12  # of the golden loop


@pytest.fixture(scope="module")
def runner():
    return models.runner()


def _torch_runner():
    return TorchRunner(models.weights().model("reference"), "cpu", "fp32")


@pytest.mark.parametrize("color", ["bgr", "rgb"])
def test_boxes_and_kept_tokens_equal_the_pytorch_engine(runner, color):
    """Frames of changing sizes; the network's rounding alone separates the two."""
    pictures = [*models.frames(4), *models.frames(2, 60, 200, seed=1), *models.frames(2, seed=2)]
    ours, theirs = (Tracker(engine, config=TrackerConfig(color=color)) for engine in (runner, _torch_runner()))
    for tracker in (ours, theirs):
        tracker.init(pictures[0], BOX)
    for picture in pictures[1:]:
        found, expected = ours.update(picture), theirs.update(picture)
        np.testing.assert_allclose(found.box, expected.box, rtol=0, atol=0.01)
        assert found.score == pytest.approx(expected.score, abs=1e-5)
        assert found.weighted_score == pytest.approx(expected.weighted_score, abs=1e-5)
        assert found.search_region == pytest.approx(expected.search_region, abs=0.02)
        assert np.array_equal(found.kept_tokens, expected.kept_tokens)
        assert found.state is expected.state


def test_several_targets_equal_separate_ones(runner):
    pictures = models.frames(5)
    multi = MultiTracker(runner)
    alone = [Tracker(runner), Tracker(runner)]
    for tracker, box in zip(alone, (BOX, OTHER), strict=True):
        tracker.init(pictures[0], box)
        multi.add(pictures[0], box)
    for picture in pictures[1:]:
        for found, tracker in zip(multi.update(picture).values(), alone, strict=True):
            expected = tracker.update(picture)
            np.testing.assert_allclose(found.box, expected.box, rtol=0, atol=0.01)
            assert np.array_equal(found.kept_tokens, expected.kept_tokens)


def test_another_target_or_size_captures_nothing_again_and_a_larger_frame_once():
    engine = models.runner()
    tracker = Tracker(engine)
    pictures = models.frames(3)
    for box in (BOX, OTHER):
        tracker.init(pictures[0], box)
        tracker.update(pictures[1])
        tracker.update(models.frames(2, 300, 400)[1])
    assert engine._plans[1]._plan.captures == 1
    large = np.zeros((1100, 1950, 3), np.uint8)  # more than the memory for 1920 x 1080
    tracker.update(large)
    tracker.update(pictures[2])
    tracker.init(large, BOX)
    assert engine._plans[1]._plan.captures == 2


def test_a_template_is_that_of_its_target_whoever_comes_before(runner):
    """Trackers that share a runner take turns at one place in its memory."""
    pictures = models.frames(4)
    shared = [Tracker(runner), Tracker(runner)]
    alone = [Tracker(models.runner()), Tracker(models.runner())]
    for trackers in (shared, alone):
        for tracker, box in zip(trackers, (BOX, OTHER), strict=True):
            tracker.init(pictures[0], box)
    for picture in pictures[1:]:
        assert [tracker.update(picture).box for tracker in shared] == [tracker.update(picture).box for tracker in alone]


def test_frames_of_any_strides(runner):
    picture = models.frames(2)[1]
    padded = np.zeros((*picture.shape[:2], 4), np.uint8)
    padded[..., :3] = picture
    boxes = []
    for frame in (picture, padded, np.asfortranarray(picture), picture[::-1].copy()[::-1]):
        tracker = Tracker(runner)
        tracker.init(frame, BOX)
        boxes.append(tracker.update(frame).box)
    assert boxes == boxes[:1] * 4


def test_the_golden_loop(shared):
    """The first frames of a real sequence by the public code, within 0.01 px (`benchmarks.parity` takes all)."""
    path = shared / "oracle" / "loop_small_fda_otb_Crossing.npz"
    content = golden.load(path)
    spec = json.loads(str(golden.load(path.parent / str(content["weights"]))["spec"]))
    config = golden.model_config(spec, **{name: float(content[name]) for name in ("search_factor", "template_factor")})
    engine = GpuRunner(golden.draw_weights(config, spec["seed"], spec["gain"], path), "cpu", "fp32", "reference")
    tracker = Tracker(engine, config=TrackerConfig(color="rgb", loop="public"))
    import cv2

    pictures = [cv2.imread(str(file))[:, :, ::-1] for file in sorted((path.parent / str(content["frames"])).glob("*.jpg"))[:FRAMES]]
    tracker.init(pictures[0], tuple(content["init"]))
    boxes = [tracker.update(picture).box for picture in pictures[1:]]
    np.testing.assert_allclose(boxes, content["boxes"][1:FRAMES], rtol=0, atol=0.01)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_tracks(dtype):
    pictures = models.frames(3)
    low, full = Tracker(models.runner(dtype)), Tracker(models.runner())
    for tracker in (low, full):
        tracker.init(pictures[0], BOX)
    assert low.update(pictures[1]).score == pytest.approx(full.update(pictures[1]).score, abs=0.05)


@pytest.mark.parametrize(
    ("changes", "backend", "message"),
    [
        ({}, "cpu", "kernels are triton, cuda, reference, not cpu"),
        ({"patch_size": 8}, "reference", "needs patches of 16 x 16 pixels, got 8"),
        ({"search_size": 65 * 16}, "reference", "at most 4096 search tokens, got 4225"),
    ],
)
def test_what_the_engine_cannot_run_is_said(changes, backend, message):
    with pytest.raises(DeviceError, match=message):
        GpuRunner(models.weights(**changes), "cpu", "fp32", backend)


@pytest.mark.parametrize(
    ("verified", "backend", "expected"),
    [
        ((), "auto", None),
        ((), "reference", None),
        ((), "triton", "triton"),
        ((), "cuda", "cuda"),
        (("cuda", "triton"), "auto", "cuda"),
        (("cuda", "triton"), "reference", None),
    ],
)
def test_auto_takes_the_engine_where_its_kernels_are_verified(monkeypatch, verified, backend, expected):
    """On a machine with CUDA, as `make_runner` sees it."""
    import esat_kernels
    from engine.runners import choice

    made = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(esat_kernels, "verified_backends", lambda device: verified)
    monkeypatch.setattr(esat_kernels, "backends", lambda: dict.fromkeys(("cpu", "triton", "cuda", "reference")))
    monkeypatch.setattr(choice, "GpuRunner", lambda weights, device, dtype, kernels: made.append((device, dtype, kernels)))
    monkeypatch.setattr(choice, "TorchRunner", lambda network, device, dtype: made.append((device, dtype, None)))
    make_runner(models.weights(), "auto", "auto", backend)
    assert made == [("cuda", "bf16", expected)]


def test_the_cuda_attention_needs_triton_around_it(monkeypatch):
    monkeypatch.setattr(gpu_runner.esat_kernels, "backends", lambda: {"cuda": None})
    monkeypatch.setattr(gpu_runner, "find_spec", lambda name: None)
    assert "need Triton" in gpu_runner.unsupported(models.SMALL, "cuda")
