"""A target's box and search region while it is tracked, lost and found, with an engine whose scores are written down and taken for confidences."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import MultiTracker, Tracker, TrackerConfig
from engine.boxes import clip, to_frame
from engine.config import PRESETS
from engine.errors import WeightsError
from engine.runners.protocol import Observation, Observations
from engine.tracking.rival import PROBATION
from engine.tracking.search import WIDTHS, LostSearch
from engine.tracking.state import StateMachine, StateThresholds
from engine.tracking.target import LEAST_SIDE

LIMITS = StateThresholds(confident=0.5, lost=0.3, lost_after=3, found=0.6, found_after=2, margin=0.3, switch_after=3, gone=0.3)
BOX, AWAY = (50.0, 40.0, 30.0, 24.0), (5.0, 90.0, 30.0, 24.0)
FRAME = np.zeros((120, 160, 3), np.uint8)


class ScoreItself:
    """In place of `engine.tracking.confidence.AppearanceModel`: what a frame's confidence is made of is tested there."""

    def learn(self, seen):
        pass

    def confidence(self, seen, centred=True):
        return seen.score


@pytest.fixture(autouse=True, scope="module")
def _scores_are_confidences():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.tracking.target.AppearanceModel", ScoreItself)
        yield


class Scripted:
    """A runner that sees the target a little right of the centre and larger by `growth`, and beside it what `beside` says of a region.

    scores: of the first region of each frame. beside: (call, box searched around) -> (box found, score); nothing is found by default.
    """

    config = PRESETS["esat-s-256"]
    device, dtype = "cpu", "fp32"

    def __init__(self, scores, growth=1.01, beside=lambda index, box: (box, 0.0)):
        self._scores, self._growth, self._beside = list(scores), growth, beside
        self.searched = []  # of each frame, one box or two

    def encode_template(self, frame, box, bgr, target=None):
        return None

    def observe(self, frame, boxes, templates, bgr):
        assert len(boxes) == len(templates)
        index = len(self.searched)
        self.searched.append(tuple(boxes))
        _, _, w, h = boxes[0]
        side = math.ceil(4 * math.sqrt(w * h))
        found = [(to_frame((0.52, 0.5, self._growth * w / side, self._growth * h / side), side, boxes[0]), self._scores[index])]
        found += [self._beside(index, box) for box in boxes[1:]]
        height, width = frame.shape[:2]
        return Observations([Observation(clip(box, width, height), box, side, score, 0.1) for box, score in found], {})


def _run(scores, thresholds=LIMITS, growth=1.01, frames=None, beside=lambda index, box: (box, 0.0), loop="default", box=BOX):
    runner = Scripted(scores, growth, beside)
    tracker = Tracker(runner, config=TrackerConfig(loop=loop, thresholds=thresholds))
    tracker.init(FRAME, box)
    results = [tracker.update(frame) for frame in (frames or [FRAME] * len(scores))]
    return results, runner.searched


def _letters(results):
    return "".join(result.state.value[0] for result in results)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_what_is_followed_is_the_public_loops_lost_or_not(scores):
    results, searched = _run(scores)
    public, public_searched = _run(scores, loop="public")
    assert [result.box for result in results] == [result.box for result in public]
    assert [boxes[0] for boxes in searched] == [boxes[0] for boxes in public_searched]
    machine = StateMachine(LIMITS)
    states, searching = zip(*[(machine.update(score), machine.searching) for score in scores], strict=True)
    assert tuple(result.state for result in results) == states
    assert [len(boxes) for boxes in searched[1:]] == [2 if value else 1 for value in searching[:-1]]
    assert all(len(boxes) == 1 for boxes in public_searched)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.floats(0.3, 3))
def test_boxes_and_searches_stay_in_bounds(scores, growth):
    results, searched = _run(scores, growth=growth, beside=lambda index, box: (box, (0.37 * index) % 1))
    for result, places in zip(results, searched, strict=True):
        x, y, w, h = result.box
        assert 0 <= x <= 158
        assert 0 <= y <= 118
        assert min(w, h) >= LEAST_SIDE
        assert w <= 160
        assert h <= 120
        for place in places:
            assert place[2] <= WIDTHS[-1] * 160
            assert place[3] <= WIDTHS[-1] * 120


@pytest.mark.parametrize(("loop", "sides"), [("public", (10, 10)), ("default", (6, 4))])
def test_a_small_box_is_reported_as_it_is_and_searched_like_the_public_loops(loop, sides):
    results, searched = _run([0.9] * 3, growth=0.5, loop=loop, box=(50, 40, 12, 8))
    assert results[0].box[2:] == sides
    assert searched[1][0][2:] == (10, 10)
    assert _run([0.9], growth=0.1, loop=loop, box=(50, 40, 10, 8))[0][0].box[2:] == (
        (10, 10) if loop == "public" else (LEAST_SIDE, LEAST_SIDE)
    )


def test_a_lost_target_is_searched_for_around_where_it_was_last_seen():
    results, searched = _run([0.9, 0.9, 0.1, 0.1, 0.0] + [0.1] * 8)
    assert _letters(results) == "TTUU" + "L" * 9
    lost = 4
    side = results[lost].search_region[2] * math.sqrt(results[1].box[2] * results[1].box[3] / math.prod(searched[lost][0][2:]))
    expected = LostSearch(results[1].box, side, 160, 120)
    assert [boxes[1] for boxes in searched[lost + 1 :]] == [expected.box(step) for step in range(len(searched) - lost - 1)]


def test_a_target_that_is_sure_again_is_not_searched_for():
    results, searched = _run([0.9, 0, 0, 0, 0.7, 0.7, 0.7, 0.7], beside=lambda index, box: (AWAY, 1.0))
    assert _letters(results) == "TUULUTTT"  # found by what is followed, before a candidate has led for long enough
    assert [len(boxes) for boxes in searched] == [1, 1, 1, 1, 2, 2, 1, 1]


def _away(scores, first=4):
    """Something at AWAY, with these scores from a frame on."""
    return lambda index, box: (AWAY, scores[index - first] if index - first < len(scores) else 0.0)


def test_a_candidate_that_leads_for_long_enough_is_followed():
    results, searched = _run([0.9] + [0.0] * 9, beside=_away([0.7, 0.7, 0.7, 0.0]))
    assert _letters(results)[:8] == "TUULLLTU"
    assert [boxes[1] == AWAY for boxes in searched[4:7]] == [False, True, True]  # a candidate is followed beside, too
    assert results[6].box == AWAY
    assert results[5].box != AWAY
    assert searched[7] == (AWAY, _run([0.9] + [0.0] * 9, loop="public")[1][7][0])  # what was left goes on beside


@pytest.mark.parametrize(
    ("scores", "followed"),
    [
        ([0.7, 0.7, 0.0, 0.7, 0.7, 0.0], [0.0] * 6),  # not three frames in a row
        ([0.55] * 6, [0.0] * 6),  # below `found`
        ([0.65] * 6, [0.5] * 6),  # less than the margin ahead
    ],
)
def test_a_candidate_that_does_not_lead_is_not_followed(scores, followed):
    results, _ = _run([0.9, 0, 0, 0, *followed], beside=_away(scores))
    assert set(_letters(results)[3:]) <= {"L", "U"}
    assert all(result.box != AWAY for result in results)


def test_a_switch_is_taken_back_once_what_was_left_leads():
    results, searched = _run(
        [0.9, 0, 0, 0, 0, 0, 0, 0.4, 0.4, 0.4, 0.4], beside=lambda index, box: (AWAY, 0.9) if index < 7 else (box, 0.95)
    )
    assert results[6].box == AWAY
    left = _run([0.9] * 11, loop="public")[1][7][0]  # which stays there from now on
    assert [boxes[1] for boxes in searched[7:10]] == [left] * 3
    assert results[9].box == pytest.approx(searched[9][1])
    assert results[9].state == "TRACKING"
    assert [len(boxes) for boxes in searched[7:]] == [2, 2, 2, 2]
    assert searched[10][0] == searched[9][1]


def test_what_was_left_is_dropped_after_the_probation():
    count = PROBATION + 12
    _, searched = _run(
        [0.9, 0, 0, 0, 0, 0, 0] + [0.9] * count, beside=lambda index, box: (AWAY if index < 7 else box, 0.9 if index < 7 else 0)
    )
    assert [len(boxes) for boxes in searched[7:]] == [2] * (PROBATION + 1) + [1] * (count - PROBATION - 1)


@pytest.mark.parametrize("size", [2.5, 0.4])
def test_a_candidate_of_quite_another_size_is_none(size):
    other = (5.0, 5.0, size * BOX[2], size * BOX[3])
    results, _ = _run([0.9] + [0.0] * 9, beside=lambda index, box: (other, 0.9))
    assert _letters(results)[3:] == "L" * 7


def test_what_is_followed_already_is_no_candidate():
    results, searched = _run([0.9] + [0.0] * 9, growth=1.0, beside=lambda index, box: ((72.0, 41.0, 30.0, 24.0), 0.9))
    assert _letters(results)[3:] == "L" * 7
    assert all(boxes[1][:2] != (72.0, 41.0) for boxes in searched[4:])


@pytest.mark.parametrize("spoilt", [{"unclipped": (math.nan, 1.0, 2.0, 3.0)}, {"score": math.nan}, {"weighted_score": math.inf}])
def test_a_network_that_gives_no_numbers_is_one_error_that_changes_no_target(spoilt):
    class Overflowing(Scripted):
        def observe(self, frame, boxes, templates, bgr):
            seen = super().observe(frame, boxes, templates, bgr)
            if len(self.searched) == 2:  # in the second frame, the last target
                seen.targets[-1] = seen.targets[-1]._replace(**spoilt)
            return seen

    alone, several = Tracker(Overflowing([0.9] * 3)), MultiTracker(Overflowing([0.9] * 3))
    alone.init(FRAME, BOX)
    several.add(FRAME, BOX)
    several.add(FRAME, AWAY)
    for tracker in (alone, several):
        tracker.update(FRAME)
        with pytest.raises(WeightsError, match=r"esat-s-256 must give finite numbers, got the box .* in fp32$"):
            tracker.update(FRAME)
    assert alone.update(FRAME).frame_index == 2
    assert [result.frame_index for result in several.update(FRAME).values()] == [2, 2]


def test_frames_of_another_size_while_lost():
    frames = [FRAME] * 5 + [np.zeros((40, 50, 3), np.uint8)] * 5 + [np.zeros((300, 400, 3), np.uint8)] * 5
    results, searched = _run([0.9] + [0.0] * 14, frames=frames)
    assert _letters(results).endswith("L" * 12)
    x, y, w, h = results[7].box
    assert x + w <= 50 + 1e-6
    assert y + h <= 40 + 1e-6
    assert all(0 <= x + w / 2 <= 50 and 0 <= y + h / 2 <= 40 for _, (x, y, w, h) in searched[6:10])


def test_several_lost_targets_equal_separate_trackers(tiny_weights):
    runner = Tracker(tiny_weights, device="cpu", dtype="fp32").runner
    config = TrackerConfig(thresholds=StateThresholds(confident=1.0, lost=1.0, lost_after=2, found=1.0, gone=1.0))
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
