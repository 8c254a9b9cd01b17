"""Frames that lie on the device, or in two planes: the boxes of the same frames as arrays, and no more copied than the crops read."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine import MultiTracker, Tracker, TrackerConfig
from engine.errors import StateError
from engine.runners.cpu.runner import CpuRunner
from engine.runners.cpu.runner import unsupported as cpu_unsupported
from engine.runners.gpu.loop import FrameLoop
from engine.runners.gpu.memory import Rows, rows_read
from engine.runners.gpu.runner import GpuRunner
from engine.runners.pytorch import TorchRunner
from tests.engine.runners.gpu import models
from tests.engine.runners.gpu.late import LateStreams
from tests.require import require

BOX, OTHER = (50.0, 40.0, 30.0, 24.0), (12.0, 20.0, 18.0, 30.0)
PUBLIC = TrackerConfig(loop="public")
RGB = TrackerConfig(loop="public", color="rgb")


@pytest.fixture(scope="module")
def runner():
    return models.runner()


def _boxes(runner, frames, config=PUBLIC):
    tracker = Tracker(runner, config=config)
    tracker.init(frames[0], BOX)
    return [tracker.update(frame).box for frame in frames[1:]]


def _scores(runner, frames):
    tracker = Tracker(runner, config=PUBLIC)
    tracker.init(frames[0], BOX)
    return [tracker.update(frame).score for frame in frames[1:]]


def _loop_boxes(runner, frames, wait):
    loop = FrameLoop(runner, config=PUBLIC)
    loop.init(0, frames[0], BOX)
    results = []
    for frame in frames[1:]:
        loop.submit(frame)
        results += loop.results(wait=wait)
    return [result.targets[0].box for result in results + loop.results(wait=True)]


def _tensor(picture):
    """A part of a wider tensor with a fourth channel, as a renderer may leave it."""
    wide = torch.zeros(picture.shape[0], picture.shape[1] + 8, 4, dtype=torch.uint8)
    wide[:, 4:-4, :3] = torch.from_numpy(picture)
    return wide[:, 4:-4]


def test_tensors_on_the_device_are_followed_as_arrays_are(runner):
    pictures = [*models.frames(4), *models.frames(2, 200, 70, seed=1)]
    expected = _boxes(runner, pictures)
    assert _boxes(runner, [_tensor(picture) for picture in pictures]) == expected
    multi = MultiTracker(runner, config=PUBLIC)
    multi.add(_tensor(pictures[0]), BOX)
    assert [multi.update(_tensor(picture))[0].box for picture in pictures[1:]] == expected


@pytest.mark.parametrize("wait", [True, False])
def test_the_loop_takes_every_kind_of_frame(runner, wait):
    """Read at once, so that the host knows the boxes and sends their rows alone, or run ahead."""
    pictures = [*models.frames(4), *models.frames(2, 200, 70, seed=1), *models.frames(2, seed=2)]
    planes = [models.nv12(picture) for picture in pictures]
    rgb = [frame.rgb() for frame in planes]
    expected = _loop_boxes(runner, pictures, wait)
    np.testing.assert_allclose(expected, _boxes(runner, pictures), rtol=0, atol=0.01)
    assert _loop_boxes(runner, [_tensor(picture) for picture in pictures], wait) == expected
    expected = _loop_boxes(runner, [frame[:, :, ::-1] for frame in rgb], wait)
    assert _loop_boxes(runner, planes, wait) == expected
    assert _loop_boxes(runner, [models.on_device(frame) for frame in planes], wait) == expected


def test_streams_of_the_loop_may_differ_in_their_kind(runner):
    first, second = models.frames(4), [models.nv12(picture) for picture in models.frames(4, 70, 150, seed=1)]
    loop = FrameLoop(runner, targets=(1, 1), config=PUBLIC)
    loop.init(0, first[0], BOX)
    loop.init(1, second[0], OTHER)
    for pair in zip(first[1:], second[1:], strict=True):
        loop.submit(*pair)
    tracker = Tracker(runner, config=RGB)
    tracker.init(second[0].rgb(), OTHER)
    for result, box, frame in zip(loop.results(wait=True), _boxes(runner, first), second[1:], strict=True):
        np.testing.assert_allclose(result.targets[0].box, box, rtol=0, atol=0.01)
        np.testing.assert_allclose(result.targets[1].box, tracker.update(frame.rgb()).box, rtol=0, atol=0.01)


@pytest.mark.parametrize("engine", ["cpu", "pytorch", "gpu"])
def test_every_engine_follows_two_planes_as_it_does_the_converted_frame(engine):
    weights = models.weights(template_size=64)
    if engine == "cpu":
        require("cpu", cpu_unsupported(weights.config, "fp32"))
        runner = CpuRunner(weights, "fp32")
    elif engine == "pytorch":
        runner = TorchRunner(weights.model("reference"), "cpu", "fp32")
    else:
        runner = GpuRunner(weights, "cpu", "fp32", "reference")
    planes = [models.nv12(picture) for picture in models.frames(4, 91, 121)]
    expected = _boxes(runner, [frame.rgb() for frame in planes], RGB)
    for config in (PUBLIC, RGB):  # a tracker's colour order is that of three channels
        assert _boxes(runner, planes, config) == expected
        assert _boxes(runner, [models.on_device(frame) for frame in planes], config) == expected


@pytest.mark.parametrize("bgr", [True, False])
def test_pytorch_s_engine_crops_tensors_where_they_lie(bgr):
    """As it does on a GPU: given to the engine itself, since a tracker would pass a CPU's tensors as arrays."""
    runner = TorchRunner(models.weights().model("reference"), "cpu", "fp32")
    assert runner.frames_on is None
    picture = models.frames(1)[0]
    planes = models.nv12(picture)
    for arrays, tensors in ((picture, _tensor(picture)[:, :, :3]), (planes, models.on_device(planes))):
        templates = [runner.encode_template(frame, OTHER, bgr) for frame in (arrays, tensors)]
        torch.testing.assert_close(templates[1], templates[0], rtol=0, atol=1e-6)
        found = [runner.observe(frame, [BOX, OTHER], templates, bgr).targets for frame in (arrays, tensors)]
        for ours, expected in zip(*found, strict=True):
            np.testing.assert_allclose(ours.box, expected.box, rtol=0, atol=1e-3)
            assert ours.region_side == expected.region_side


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("two_planes", [True, False])
def test_a_frame_that_is_still_being_made_is_waited_for(waits, two_planes):
    """Without the wait the scores are others: the engine would read what the memory held before."""
    small = {"depth": 2, "elimination_layers": (1,)}
    pictures = models.frames(3)
    frames = [models.nv12(picture) if two_planes else picture for picture in pictures]
    expected = _scores(models.runner(**small), frames)
    streams = LateStreams((), [] if waits else [("upload", "caller")])
    late = models.runner(streams=streams, **small)

    def unfinished(frame):
        parts = [frame.luma, frame.chroma] if two_planes else [frame]
        tensors = [torch.zeros(part.shape, dtype=torch.uint8) for part in parts]

        def make():
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(torch.from_numpy(part))

        streams.run("caller", make)
        return type(frame)(*tensors, frame.matrix) if two_planes else tensors[0]

    tracker = Tracker(late, config=PUBLIC)
    tracker.init(unfinished(frames[0]), BOX)
    found = [tracker.update(unfinished(frame)).score for frame in frames[1:]]
    loop = FrameLoop(late, config=PUBLIC)
    loop.init(0, unfinished(frames[0]), BOX)
    for frame in frames[1:]:
        loop.submit(unfinished(frame))
    looped = [result.targets[0].score for result in loop.results(wait=True)]
    assert (found == pytest.approx(expected, abs=1e-5)) == waits
    assert (looped == pytest.approx(expected, abs=1e-5)) == waits


def test_only_the_rows_that_the_crops_read_are_copied(runner):
    """Rows outside stay as they were in the device's memory."""
    height, width = 700, 80
    picture = np.full((height, width, 3), 9, np.uint8)
    box = (30.0, 300.0, 20.0, 20.0)  # its region has 80 rows, from 270 on
    tracker = Tracker(runner, config=PUBLIC)
    tracker.init(picture, box)
    engine = models.runner()
    engine.observe(picture, [box], [tracker._target.template], True)
    loop = FrameLoop(runner, config=PUBLIC)
    loop.init(0, picture, box)
    loop.submit(picture)
    for plan in (engine._plans[1]._plan, loop.plan):
        rows = plan.frames[0][0].pixels[: 3 * height * width].view(height, -1)
        assert (rows[270:350] == 9).all()
        assert (rows[:270] == 0).all()
        assert (rows[350:] == 0).all()
    loop.submit(picture)  # now a frame is under way whose box the host does not know
    assert (loop.plan.frames[1][0].pixels[: 3 * height * width] == 9).all()


def test_the_rows_of_two_planes_and_of_two_regions(runner):
    frame = models.nv12(np.full((700, 80, 3), 9, np.uint8))
    tracker = Tracker(runner, config=PUBLIC)
    tracker.init(frame, BOX)
    template = tracker._target.template
    engine = models.runner()
    engine.observe(frame, [(30.0, 301.0, 20.0, 20.0), (30.0, 401.0, 20.0, 20.0)], [template, template], True)  # rows 271 to 450
    pixels = engine._plans[2]._plan.frames[0][0].pixels
    luma, chroma = pixels[: 700 * 80].view(700, 80), pixels[700 * 80 : 700 * 80 * 3 // 2].view(350, 80)
    for plane, first, end in ((luma, 271, 451), (chroma, 135, 226)):
        assert (plane[first:end] == 9).all()
        assert (plane[:first] == 0).all()
        assert (plane[end:] == 0).all()


@pytest.mark.parametrize(
    ("boxes", "rows"),
    [
        ([(0, 50, 10, 10)], (35, 75)),
        ([(0, 50, 10, 10), (0, 90, 10, 10)], (35, 100)),
        ([(0, -5, 10, 10)], (0, 20)),
        ([(0, -500, 10, 10)], (0, 0)),
        ([(0, 500, 10, 10)], (0, 0)),
        ([(0, 500, 10, 10), (0, 50, 10, 10)], (35, 75)),
        ([(0, float("nan"), 10, 10), (0, 50, -1, 10), (float("inf"), 50, 1, 1)], (0, 0)),
    ],
)
def test_rows(boxes, rows):
    assert rows_read(boxes, 4.0, 100) == Rows(*rows)


@pytest.mark.parametrize("waits", [True, False])
def test_results_that_stay_on_the_device(waits):
    """Read by the caller's own later work, after a frame that comes behind has overwritten what they were copied from; without the wait they are
    not there yet.
    """
    small = {"depth": 2, "elimination_layers": (1,)}
    pictures = models.frames(6)
    expected = _boxes(models.runner(**small), pictures)
    streams = LateStreams((), [] if waits else [("caller", "download")])
    loop = FrameLoop(models.runner(streams=streams, **small), targets=(2,), config=PUBLIC)
    loop.init(0, pictures[0], BOX)
    with pytest.raises(StateError, match="no result on the device"):
        loop.on_device()
    read, given = [], []
    for picture in pictures[1:]:
        loop.submit(picture)
        result = loop.on_device()
        given.append(result)
        result.record.fill_(0)  # whatever fresh memory holds
        streams.run("caller", lambda result=result: read.append(result.record[0, :4].tolist()))
    streams.finish("caller", len(streams._queues["caller"]) - 1)
    assert np.allclose(read, expected, rtol=0, atol=0.01) == waits
    boxes = [result.targets[0].box for result in loop.results(wait=True)]
    np.testing.assert_allclose(boxes, expected, rtol=0, atol=0.01)
    assert [result.frame_index for result in given] == list(range(5))
    assert all(result.features.shape == (2, 64) and result.features[0].any() for result in given)
