"""The GPU engine on a CUDA device: graph and eager calls give equal bits, the loop follows the tracker, and nothing is captured twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

import esat_kernels
from engine import MultiTracker, Tracker, TrackerConfig
from engine.runners.choice import make_runner
from engine.runners.gpu.cuda import CudaStreams
from engine.runners.gpu.frame import FramePlan
from engine.runners.gpu.loop import FrameLoop
from engine.runners.gpu.runner import GpuRunner
from engine.runners.pytorch import TorchRunner
from tests.engine.runners.gpu import models
from tests.require import require

pytestmark = pytest.mark.gpu
BOX, OTHER = (50.0, 40.0, 30.0, 24.0), (12.0, 20.0, 18.0, 30.0)
CONFIG = TrackerConfig(loop="public")  # random weights follow nothing, and a loop that runs ahead searches later than a tracker


@pytest.fixture(scope="module", params=["triton", "cuda", "fp8"])
def runner(request):
    if request.param == "fp8":
        require("triton", esat_kernels.backends()["triton"])
        require("fp8", esat_kernels.fp8_unsupported(torch.device("cuda")))
        return GpuRunner(models.weights(dim=128, heads=2), "cuda", "fp8", "triton")
    require(request.param, esat_kernels.backends()[request.param])
    return GpuRunner(models.weights(), "cuda", "bf16", request.param)


def _place(runner, plan, picture, boxes):
    for slot, box in enumerate(boxes):
        template = runner.encode_template(picture, box, True)
        runner.streams.run("compute", lambda slot=slot, template=template: plan.set_template(slot, template)).wait()
    staging = plan.staging()
    used = staging.fill(picture)
    plan.frames[0][0].memory[:used].copy_(staging.memory[:used])
    torch.cuda.synchronize()


@pytest.mark.parametrize("batch", [1, 3])
def test_a_replayed_graph_equals_the_eager_frame_bit_for_bit_a_thousand_times(runner, batch):
    plan = FramePlan(runner.network, runner.streams, [batch])
    boxes = [BOX, OTHER, (70.0, 50.0, 20.0, 20.0)][:batch]
    _place(runner, plan, models.frames(1)[0], boxes)
    start = torch.tensor(boxes, dtype=torch.float64, device="cuda")
    replay = plan.executable(0, True)
    plan.boxes.copy_(start)
    eager = plan.step(0, True)
    expected = [eager.record.clone(), eager.kept.clone(), *(map_.clone() for map_ in eager.maps)]
    for _ in range(1000):
        plan.boxes.copy_(start)
        result = replay()
        assert all(torch.equal(*pair) for pair in zip((result.record, result.kept, *result.maps), expected, strict=True))
    assert torch.equal(plan.boxes, result.record[:, :4])


def test_float32_equals_the_pytorch_engine():
    """On one device: the same tokens, and boxes within 0.01 px."""
    require("triton", esat_kernels.backends()["triton"])
    weights, pictures = models.weights(), [*models.frames(5), *models.frames(2, 60, 200, seed=1)]
    torch.backends.cudnn.allow_tf32 = False
    engines = [GpuRunner(weights, "cuda", "fp32", "triton"), TorchRunner(weights.model("reference"), "cuda", "fp32")]
    trackers = [Tracker(engine, config=CONFIG) for engine in engines]
    for tracker in trackers:
        tracker.init(pictures[0], BOX)
    for picture in pictures[1:]:
        ours, theirs = (tracker.update(picture) for tracker in trackers)
        np.testing.assert_allclose(ours.box, theirs.box, rtol=0, atol=0.01)
        assert np.array_equal(ours.kept_tokens, theirs.kept_tokens)


def test_the_loop_equals_the_tracker_while_it_runs_ahead(runner):
    """Arrays are overwritten as soon as they are submitted; pinned and device tensors are taken as they are."""
    pictures = [*models.frames(30), *models.frames(4, 200, 70, seed=1)]
    tracker, loop = Tracker(runner, config=CONFIG), FrameLoop(runner, config=CONFIG, pending=4)
    tracker.init(pictures[0], BOX)
    loop.init(0, pictures[0], BOX)
    results = []
    for index, picture in enumerate(pictures[1:]):
        if index % 3 == 0:
            frame = picture.copy()
            loop.submit(frame)
            frame[:] = 0
        else:
            tensor = torch.from_numpy(picture.copy())
            loop.submit(tensor.pin_memory() if index % 3 == 1 else tensor.cuda())
        results += loop.results()
    results += loop.results(wait=True)
    for result, picture in zip(results, pictures[1:], strict=True):
        expected = tracker.update(picture)
        np.testing.assert_allclose(result.targets[0].box, expected.box, rtol=0, atol=0.01)
        assert result.targets[0].state is expected.state


def test_targets_sizes_and_boxes_change_without_another_capture(runner):
    pictures = models.frames(6)
    loop = FrameLoop(runner, targets=(2, 1), config=CONFIG)
    loop.init(0, pictures[0], BOX)
    loop.submit(pictures[1], pictures[1])
    loop.submit(pictures[2], pictures[2])
    captures = loop.plan.captures
    loop.init(0, pictures[2], OTHER)
    loop.init(2, pictures[2], BOX)
    loop.submit(pictures[3], models.frames(1, 300, 400)[0])
    loop.write_box(0, BOX)
    loop.submit(models.frames(1, 50, 60)[0], pictures[4])
    results = loop.results(wait=True)
    assert [sorted(result.targets) for result in results] == [[0], [0], [0, 2], [0, 2]]
    x, y, w, h = BOX
    region = results[3].targets[0].search_region
    assert (region[0] + region[2] / 2, region[1] + region[3] / 2) == pytest.approx((x + w / 2, y + h / 2), abs=1e-3)
    assert loop.plan.captures == captures == 2


def test_a_larger_frame_captures_once_more(runner):
    tracker = Tracker(runner)
    tracker.init(models.frames(1)[0], BOX)
    tracker.update(models.frames(2)[1])
    plan = runner._plans[1]._plan
    captures = plan.captures
    large = np.zeros((1200, 2000, 3), np.uint8)
    tracker.update(large)
    tracker.update(large)
    tracker.update(models.frames(2)[1])
    assert plan.captures == captures + 1


def test_several_targets_equal_separate_ones():
    """In float32: in bf16 the tiles, which follow the batch, round differently, and random weights carry that far."""
    require("triton", esat_kernels.backends()["triton"])
    runner = GpuRunner(models.weights(), "cuda", "fp32", "triton")
    torch.backends.cudnn.allow_tf32 = False
    pictures = models.frames(4)
    multi, alone = MultiTracker(runner, config=CONFIG), [Tracker(runner, config=CONFIG) for _ in range(2)]
    for tracker, box in zip(alone, (BOX, OTHER), strict=True):
        multi.add(pictures[0], box)
        tracker.init(pictures[0], box)
    for picture in pictures[1:]:
        for found, tracker in zip(multi.update(picture).values(), alone, strict=True):
            np.testing.assert_allclose(found.box, tracker.update(picture).box, rtol=0, atol=0.01)


def test_a_capture_leaves_the_state_alone():
    streams = CudaStreams(torch.device("cuda"))
    value = torch.ones(3, device="cuda")
    torch.cuda.synchronize()
    replay = streams.capture(lambda: value.add_(1).clone(), (value,))
    assert value.tolist() == [1, 1, 1]
    streams.run("compute", replay).wait()
    assert value.tolist() == [2, 2, 2]


def test_the_named_kernels_are_this_engine(runner):
    assert isinstance(make_runner(models.weights(), "cuda", "auto", runner.network.kernels.attention), GpuRunner)
