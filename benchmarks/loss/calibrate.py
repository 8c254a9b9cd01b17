"""Thresholds from tracks: `lost` from the public code's loop, `found` from the search for a lost target; and what they reach."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from benchmarks.loss.record import Track
from engine.datasets.text import Floats
from engine.tracking.state import StateThresholds

GOOD = 0.5  # IoU above which the tracker has its target
FLAG_WITHIN, RETURN_WITHIN = 10, 30  # frames
FALSE_ALARMS = 0.01  # share of good frames that may be called lost
RETURN_STEPS = (0.0, 0.05, 0.1, 0.15)  # of `found` above `confident`, each tried with the search itself
UNCERTAIN_SHARE = 0.05  # share of good frames that may be called uncertain
GRID = np.round(np.arange(0.05, 0.9, 0.01), 2)


@dataclasses.dataclass(frozen=True)
class Curves:
    """For each value of GRID as the threshold: shares of frames, and of disturbances for `flagged`."""

    false_alarms: Floats  # good frames whose mean of the last `lost_after` confidences lies below
    flagged: Floats  # disturbances in which that happens within FLAG_WITHIN frames
    good_frames: int
    events: int


def curves(tracks: list[Track], lost_after: int) -> Curves:
    """Sweep `lost` over tracks of the public code's loop. Frames before the target goes are those of a tracker that has it."""
    good: list[float] = []
    lowest: list[float] = []
    for track in tracks:
        confidence = np.array(track.confidence)
        recent = np.array([confidence[max(0, index + 1 - lost_after) : index + 1].mean() for index in range(len(confidence))])
        good += recent[good_frames(track)].tolist()
        if track.kind != "plain" and had_target(track):
            lowest.append(float(recent[track.gone : track.gone + FLAG_WITHIN].min()))
    false_alarms, flagged = (np.array([np.mean(np.array(values) < limit) for limit in GRID]) for values in (good, lowest))
    return Curves(false_alarms, flagged, len(good), len(lowest))


def _highest_lost(false_alarms: Floats) -> float:
    return float(max(GRID[false_alarms <= FALSE_ALARMS], default=GRID[0]))


def separation(tracks: list[Track], signal: str) -> float:
    """Area under the ROC curve of a signal of single frames, "confidence" or "score": good frames against those with the target gone."""
    good, gone = [], []
    for track in tracks:
        values = np.array(getattr(track, signal))
        good.append(values[good_frames(track)])
        if track.kind != "plain" and had_target(track):
            gone.append(values[track.gone : track.back])
    with_target, without = np.concatenate(good), np.sort(np.concatenate(gone))
    below = np.searchsorted(without, with_target, "left") + np.searchsorted(without, with_target, "right")
    return float(below.mean() / (2 * len(without)))


def good_frames(track: Track) -> np.ndarray:
    """[N] whether the tracker has its target, in full view and before a disturbance."""
    index = np.arange(len(track.confidence))
    before = index < (track.gone if track.kind != "plain" else len(index))
    return (np.array(track.overlap) > GOOD) & (np.array(track.visible) > 0.9) & before


def had_target(track: Track) -> bool:
    """Whether the tracker was on its target before it was disturbed: else its loss is another matter."""
    return bool(np.mean(track.overlap[max(0, track.gone - 9) : track.gone - 3]) > 0.4)


def choose_lost(tracks: list[Track], lost_after: int = 5, found_after: int = 3) -> tuple[StateThresholds, Curves]:
    """The highest `lost` within FALSE_ALARMS, and `confident` above it by UNCERTAIN_SHARE; `found` is as low as it may be."""
    swept = curves(tracks, lost_after)
    lost = _highest_lost(swept.false_alarms)
    values = np.concatenate([np.array(track.confidence)[good_frames(track)] for track in tracks])
    confident = max(lost, round(float(np.quantile(values, UNCERTAIN_SHARE)), 2))
    return StateThresholds(confident, lost, lost_after, confident, found_after), swept


def choose_found(tried: list[tuple[StateThresholds, list[Track]]]) -> StateThresholds:
    """Of the thresholds tried, each with its tracks, those with most right returns less wrong ones; the strictest of equal ones."""

    def gain(entry: tuple[StateThresholds, list[Track]]) -> tuple[int, float]:
        found = reached(entry[1])
        return found["returned"][0] - found["wrong_returns"][0], entry[0].found

    return max(tried, key=gain)[0]


def reached(tracks: list[Track]) -> dict[str, Any]:
    """Counts of what tracks with thresholds reached, [found, of]: `flagged` and `returned` of the disturbances in which the tracker had
    its target, `false_lost` of all frames with IoU above GOOD, `wrong_returns` (TRACKING while the target was away, after a loss)."""
    events = [track for track in tracks if track.kind != "plain" and had_target(track)]
    flagged = [_flagged(track) for track in events]
    returned = [_returned(track) for track in events]
    false, good = 0, 0
    for track in tracks:
        right = (np.array(track.overlap) > GOOD) & (np.array(track.visible) > 0.9)
        false += int(np.sum(right & (np.array(track.state) == "LOST")))
        good += int(np.sum(right))
    wrong = [_returned_too_early(track) for track in events]
    skipped = sum(track.kind != "plain" for track in tracks) - len(events)
    return {
        "flagged": [sum(flagged), len(events)],
        "returned": [sum(returned), len(events)],
        "false_lost": [false, good],
        "wrong_returns": [sum(wrong), len(events)],
        "without_target_before": skipped,
    }


def _flagged(track: Track) -> bool:
    return "LOST" in track.state[track.gone : track.gone + FLAG_WITHIN]


def _returned(track: Track) -> bool:
    frames = range(track.back, min(track.back + RETURN_WITHIN, len(track.state)))
    return any(track.state[index] == "TRACKING" and track.overlap[index] > GOOD for index in frames)


def _returned_too_early(track: Track) -> bool:
    away = track.state[track.gone : track.back]
    return "LOST" in away and "TRACKING" in away[away.index("LOST") :]
