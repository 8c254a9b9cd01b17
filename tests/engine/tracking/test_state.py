"""The state of a target: hysteresis, and what holds for every sequence of scores."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ConfigError
from engine.tracking.state import StateMachine, StateThresholds, TargetState

LIMITS = StateThresholds(confident=0.5, lost=0.3, lost_after=3, found=0.6, found_after=2, gone=0.15)
SCORES = st.lists(st.floats(0, 1), max_size=80)


def _states(scores, limits=LIMITS):
    machine = StateMachine(limits)
    return "".join(machine.update(score).value[0] for score in scores)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.5, 0.5, 0.5], "TTT"),
        ([0.5, 0.4, 0.5], "TUT"),
        ([0.7, 0.1, 0.7, 0.1, 0.7], "TUTUT"),  # three in a row average 0.3 or more: single low frames are no loss
        ([0.7, 0.1, 0.09, 0.0], "TULL"),  # a mean of 0.2967
        ([0.7, 0.1, 0.1, 0.1], "TUUL"),  # a mean of 0.3 is not below 0.3
        ([0.2, 0.2, 0.2, 0.2, 0.1], "UUUUL"),  # searched for, but no frame below 0.15 until the last one
        ([0.0, 0.0, 0.0, 0.29, 0.15, 0.3, 0.29, 0.1], "UULLLUUL"),  # LOST lasts as long as the frames are below 0.3
        ([0.0, 0.0, 0.0, 0.6, 0.5, 0.6, 0.6, 0.0, 0.0, 0.0], "UULUUUTULL"),
        ([0.0, 0.0, 0.0, 0.55, 0.55, 0.55], "UULUUU"),  # not LOST, but not enough to be found
        ([0.0, 0.0, 0.0, 0.5, 0.7], "UULUT"),  # a mean of 0.6: a single frame may be lower
    ],
)
def test_states(scores, expected):
    assert _states(scores) == expected


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.2, 0.2, 0.2, 0.2], "  ss"),  # before anything is said
        ([0.0, 0.0, 0.0, 0.5, 0.5, 0.0], "  ssss"),  # until it is found, LOST or not
        ([0.0, 0.0, 0.0, 0.5, 0.7, 0.5], "  ss  "),
    ],
)
def test_a_search_begins_early_and_lasts_until_the_target_is_found(scores, expected):
    machine = StateMachine(LIMITS)
    searching = []
    for score in scores:
        machine.update(score)
        searching.append("s" if machine.searching else " ")
    assert "".join(searching) == expected


@given(SCORES)
def test_lost_is_said_of_low_frames_of_a_search_alone(scores):
    machine, before = StateMachine(LIMITS), TargetState.TRACKING
    for index, score in enumerate(scores):
        searched, state = machine.searching, machine.update(score)
        if state is TargetState.LOST:
            assert machine.searching
            assert index >= LIMITS.lost_after - 1
            assert score < (LIMITS.lost if before is TargetState.LOST else LIMITS.gone)
        if searched and not machine.searching:
            assert state is TargetState.TRACKING
            assert sum(scores[index + 1 - LIMITS.found_after : index + 1]) >= LIMITS.found * LIMITS.found_after - 1e-9
        assert not (machine.searching and state is TargetState.TRACKING)
        before = state


@given(SCORES, st.floats(0.01, 1))
def test_what_comes_later_changes_nothing(scores, score):
    assert _states([*scores, score])[: len(scores)] == _states(scores)


@given(SCORES)
def test_the_public_loop_is_never_lost(scores):
    machine = StateMachine(LIMITS, may_lose=False)
    assert TargetState.LOST not in [machine.update(score) for score in scores]
    assert not machine.searching


@given(st.lists(st.floats(0.5, 1), min_size=1, max_size=200))
def test_steady_scores_are_tracking(scores):
    assert set(_states(scores)) == {"T"}


def test_a_target_that_stays_away_stays_lost_and_one_that_stays_comes_back():
    machine = StateMachine(StateThresholds())
    for _ in range(20):
        machine.update(0.9)
    assert [machine.update(0.2) for _ in range(100)][10:] == [TargetState.LOST] * 90
    assert [machine.update(0.9) for _ in range(20)][-1] is TargetState.TRACKING


def test_what_another_judgement_found_is_no_longer_lost():
    machine = StateMachine(LIMITS)
    for _ in range(5):
        machine.update(0.0)
    machine.found(0.9)
    assert (machine.state, machine.searching) == (TargetState.TRACKING, False)
    assert "".join(machine.update(0.0).value[0] for _ in range(3)) == "UUL"  # of 0.9, 0, 0 the mean is not below 0.3


@pytest.mark.parametrize(
    "values",
    [
        {"lost": 0.8},
        {"confident": 1.1},
        {"found": 0.4},
        {"lost": math.nan},
        {"found": math.inf},
        {"lost": -0.1},
        {"lost_after": 0},
        {"switch_after": 0},
        {"margin": math.nan},
        {"gone": 1.1},
    ],
)
def test_impossible_thresholds_are_refused(values):
    with pytest.raises(ConfigError, match="must"):
        StateThresholds(**values)
