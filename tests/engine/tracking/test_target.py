"""A target's box and search region while it is tracked, lost and found, with an engine whose scores are written down and taken for confidences."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import MultiTracker, Tracker, TrackerConfig
from engine.boxes import clip, to_frame
from engine.config import PRESETS
from engine.runners.protocol import Observation, Observations
from engine.tracking.search import WIDTHS, LostSearch
from engine.tracking.state import NEVER_LOST, StateThresholds

LIMITS = StateThresholds(confident=0.5, lost=0.3, lost_after=3, found=0.6, found_after=2)
BOX = (50.0, 40.0, 30.0, 24.0)
FRAME = np.zeros((120, 160, 3), np.uint8)


class ScoreItself:
    """In place of `engine.tracking.confidence.Usual`: what a frame's confidence is made of is tested there."""

    def learn(self, seen):
        pass

    def confidence(self, seen, centred=True):
        return seen.score


@pytest.fixture(autouse=True, scope="module")
def _scores_are_confidences():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.tracking.target.Usual", ScoreItself)
        yield


class Scripted:
    """A runner that sees the target a little right of the centre and one per cent larger, with the scores it is given."""

    config = PRESETS["esat-s-256"]
    device, dtype = "cpu", "fp32"

    def __init__(self, scores, growth=1.01):
        self._scores = iter(scores)
        self._growth = growth
        self.searched = []

    def encode_template(self, frame, box, bgr):
        return None

    def observe(self, frame, boxes, templates, bgr):
        self.searched += boxes
        ((_, _, w, h),) = boxes
        side = math.ceil(4 * math.sqrt(w * h))
        found = to_frame((0.52, 0.5, self._growth * w / side, self._growth * h / side), side, boxes[0])
        seen = Observation(clip(found, frame.shape[1], frame.shape[0]), side, next(self._scores), 0.1)
        return Observations([seen], {})


def _run(scores, thresholds=LIMITS, growth=1.01, frames=None):
    runner = Scripted(scores, growth)
    tracker = Tracker(runner, config=TrackerConfig(thresholds=thresholds))
    tracker.init(FRAME, BOX)
    results = [tracker.update(frame) for frame in (frames or [FRAME] * len(scores))]
    return results, runner.searched


def _letters(results):
    return "".join(result.state.value[0] for result in results)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_until_the_loss_every_box_is_the_public_loops(scores):
    results, searched = _run(scores)
    public, public_searched = _run(scores, NEVER_LOST)
    count = _letters(results).find("L") if "L" in _letters(results) else len(results)
    assert [result.box for result in results[:count]] == [result.box for result in public[:count]]
    assert searched[: count + 1] == public_searched[: count + 1]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.floats(0.3, 3))
def test_boxes_and_searches_stay_in_bounds(scores, growth):
    results, searched = _run(scores, growth=growth)
    for result, place in zip(results, searched, strict=True):
        x, y, w, h = result.box
        assert 0 <= x <= 150
        assert 0 <= y <= 110
        assert min(w, h) >= 10
        assert w <= 160
        assert h <= 120
        assert place[2] <= WIDTHS[-1] * 160
        assert place[3] <= WIDTHS[-1] * 120
    for before, after in itertools.pairwise(results):
        if before.state == after.state == "LOST":
            assert before.box == after.box


def test_a_lost_target_stays_where_it_was_last_seen_and_is_searched_for():
    results, searched = _run([0.9, 0.9, 0.1, 0.1, 0.0] + [0.1] * 8)
    assert _letters(results) == "TTUU" + "L" * 9
    lost = 4
    last = results[1].box
    assert {result.box for result in results[lost:]} == {last}
    side = results[lost].search_region[2] * math.sqrt(last[2] * last[3] / (searched[lost][2] * searched[lost][3]))
    expected = LostSearch(last, side, 160, 120)
    assert searched[lost + 1 :] == [expected.box(step) for step in range(len(searched) - lost - 1)]


def test_a_candidate_is_followed_and_reported_once_it_is_confirmed():
    results, searched = _run([0.9, 0.0, 0.0, 0.0, 0.7, 0.2, 0.7, 0.7, 0.9])
    assert _letters(results) == "TUULLLLTT"
    held = results[3].box
    assert [result.box for result in results[3:7]] == [held] * 4
    # The frame after a candidate searches around it; where that is not confirmed the search goes on.
    assert searched[5][:2] != pytest.approx(held[:2])
    assert searched[7] != searched[5]
    assert searched[8] == results[7].box != held


def test_a_candidate_of_quite_another_size_does_not_come_back():
    assert _letters(_run([0.9, 0, 0, 0] + [0.9] * 6, growth=2.5)[0])[3:] == "L" * 7
    assert _letters(_run([0.9, 0, 0, 0] + [0.9] * 6, growth=1.2)[0])[-1] == "T"


def test_frames_of_another_size_while_lost():
    frames = [FRAME] * 5 + [np.zeros((40, 50, 3), np.uint8)] * 5 + [np.zeros((300, 400, 3), np.uint8)] * 5
    results, searched = _run([0.9] + [0.0] * 14, frames=frames)
    assert _letters(results).endswith("L" * 12)
    x, y, w, h = results[7].box
    assert x + w <= 50 + 1e-6
    assert y + h <= 40 + 1e-6
    assert all(0 <= x + w / 2 <= 50 and 0 <= y + h / 2 <= 40 for x, y, w, h in searched[6:10])


def test_several_lost_targets_equal_separate_trackers(tiny_weights):
    runner = Tracker(tiny_weights, device="cpu", dtype="fp32").runner
    config = TrackerConfig(thresholds=StateThresholds(confident=1.0, lost=1.0, lost_after=2, found=1.0))
    boxes = [BOX, (10.0, 10.0, 60.0, 60.0)]
    rng = np.random.default_rng(0)
    frames = list(rng.integers(0, 256, (8, 120, 160, 3), np.uint8))
    several, alone = MultiTracker(runner, config=config), [Tracker(runner, config=config) for _ in boxes]
    ids = [several.add(frames[0], box) for box in boxes]
    for tracker, box in zip(alone, boxes, strict=True):
        tracker.init(frames[0], box)
    for frame in frames[1:]:
        together = several.update(frame)
        for target_id, tracker in zip(ids, alone, strict=True):
            expected = tracker.update(frame)
            assert together[target_id].state == expected.state
            assert together[target_id].box == pytest.approx(expected.box, abs=0.01)
            assert together[target_id].search_region == pytest.approx(expected.search_region, abs=0.01)
    assert expected.state == "LOST"
