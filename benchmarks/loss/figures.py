"""What tracks say of loss and return, each figure with the number of clips and frames behind it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.loss.record import Track
from engine.datasets.text import Floats
from engine.evaluation.metrics import OVERLAP_THRESHOLDS
from engine.tracking.confidence import AppearanceModel
from engine.tracking.state import StateMachine, StateThresholds, TargetState

GOOD = 0.5  # IoU above which a loop has its target
FLAG_WITHIN, RETURN_WITHIN = 15, 30  # frames
FLAGGED = 0.8  # share of the losses that a level is to flag where it is chosen: a little more than the 0.75 asked for where it is used
LEVELS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)  # of `gone`, for the choice by leaving a scene out
SIZES = {"under 16 px": (0, 16), "16 to 40 px": (16, 40), "over 40 px": (40, np.inf)}
_LEAST_GOOD = 10  # frames without which a sequence has no share of false LOST


def auc(track: Track, overlap: Floats) -> float:
    """Percent, over the frames with a truth, by OTB's thresholds. OTB itself counts the first frame too, and frames without a truth as misses."""
    return auc_of(overlap[np.array(track.known)])


def auc_of(counted: Floats) -> float:
    """Percent, over these frames' IoU."""
    return float(100 * np.mean([(counted > threshold).mean() for threshold in OVERLAP_THRESHOLDS]))


def good_frames(track: Track) -> np.ndarray:
    """[N] where the public loop has its target, in full view."""
    return (track.public > GOOD) & (np.array(track.visible) > 0.9)


def false_lost(track: Track, state: list[str]) -> float:
    """Share of the public loop's good frames that are LOST; NaN with fewer than ten of them."""
    good = good_frames(track)
    return float(np.mean(np.array(state)[good] == "LOST")) if good.sum() >= _LEAST_GOOD else float("nan")


def by_target(values: Mapping[str, float]) -> list[list[float]]:
    """Values of clips, TARGET@SHRINK, those of a target together: its sizes are held and lost together."""
    groups: dict[str, list[float]] = {}
    for name, value in values.items():
        groups.setdefault(name.rsplit("@", 1)[0], []).append(value)
    return list(groups.values())


def interval(groups: Iterable[Sequence[float]]) -> list[float]:
    """The 95 % interval of the mean over all values, by 2000 bootstrap samples of groups: only these are independent."""
    sums = np.array([(sum(group), len(group)) for group in groups])
    totals = sums[np.random.default_rng(0).integers(len(sums), size=(2000, len(sums)))].sum(axis=1)
    return [float(value) for value in np.quantile(totals[:, 0] / totals[:, 1], (0.025, 0.975))]


def compared(tracks: list[Track]) -> dict[str, Any]:
    """AUC of both loops and false LOST over plain clips, and by the target's size."""
    rows = {track.name: (auc(track, track.public), auc(track, track.default)) for track in tracks}
    differences = {name: default - public for name, (public, default) in rows.items()}
    shares = {track.name: share for track in tracks if not np.isnan(share := false_lost(track, track.state))}
    worst, most = min(differences, key=differences.__getitem__), max(shares, key=shares.__getitem__)
    found = {
        **_means(tracks),
        "AUC_difference_interval": interval(by_target(differences)),
        "AUC_worst": [worst, differences[worst]],
        "AUC_lose_more_than_2": sum(value < -2 for value in differences.values()),
        "AUC_lose_more_than_3": sum(value < -3 for value in differences.values()),
        "false_lost_interval": interval(by_target(shares)),
        "false_lost_most": [most, shares[most]],
        "false_lost_over_a_tenth": sum(value > 0.1 for value in shares.values()),
        "switches": sum(track.switches for track in tracks),
    }
    sizes = {name: [track for track in tracks if low <= track.size < high] for name, (low, high) in SIZES.items()}
    return {**found, "sizes": {name: _means(part) for name, part in sizes.items() if part}}


def _means(tracks: list[Track]) -> dict[str, Any]:
    shares = [share for track in tracks if not np.isnan(share := false_lost(track, track.state))]
    return {
        "clips": len(tracks),
        "frames": sum(len(track.state) for track in tracks),
        "AUC_public": float(np.mean([auc(track, track.public) for track in tracks])),
        "AUC_default": float(np.mean([auc(track, track.default) for track in tracks])),
        "good_frames": sum(int(good_frames(track).sum()) for track in tracks),
        "false_lost": float(np.mean(shares)) if shares else None,
    }


def had_target(track: Track) -> bool:
    """Whether the public loop was on its target before a disturbance: else its loss is another matter."""
    return bool(np.mean(track.public[max(0, track.gone - 9) : track.gone - 3]) > 0.4)


def is_flagged(track: Track, state: list[str]) -> bool:
    """Whether a disturbed clip's loss is called LOST in time."""
    return "LOST" in state[track.gone : track.gone + FLAG_WITHIN]


def disturbances(tracks: list[Track], states: list[list[str]] | None = None) -> dict[str, Any]:
    """Counts [found, of] over disturbed clips: LOST within FLAG_WITHIN frames, TRACKING with IoU above GOOD within RETURN_WITHIN of the
    return, and TRACKING while the target was away, after a loss."""
    events = [(track, state) for track, state in zip(tracks, states or [t.state for t in tracks], strict=True) if had_target(track)]
    flagged = sum(is_flagged(track, state) for track, state in events)
    returned = sum(
        any(
            state[index] == "TRACKING" and track.default[index] > GOOD
            for index in range(track.back, min(track.back + RETURN_WITHIN, len(state)))
        )
        for track, state in events
    )
    wrong = 0
    for track, state in events:
        away = state[track.gone : track.back]
        wrong += "LOST" in away and "TRACKING" in away[away.index("LOST") :]
    count = len(events)
    return {
        "flagged": [flagged, count],
        "returned": [returned, count],
        "wrong_returns": [wrong, count],
        "without_target_before": len(tracks) - count,
        "frames": sum(len(track.state) for track, _ in events),
    }


def replay(track: Track, thresholds: StateThresholds) -> list[str]:
    """The states of what the public loop followed, had these been the thresholds: no network is asked, and no switch happens."""
    usual, machine, states = AppearanceModel(), StateMachine(thresholds), []
    for seen in track.seen:
        machine.update(usual.confidence(seen))
        if machine.state is TargetState.TRACKING:
            usual.learn(seen)
        states.append(str(machine.state))
    return states


def left_out(plain: list[Track], disturbed: list[Track]) -> dict[str, Any]:
    """`gone` chosen without a scene, and what it says of that scene: the lowest level that flags FLAGGED of the other scenes' losses, the
    highest one if none does."""
    levels = [dataclasses.replace(StateThresholds(), gone=level) for level in LEVELS]
    states = {track.name: [replay(track, level) for level in levels] for track in (*plain, *disturbed)}
    shares = {track.name: [false_lost(track, state) for state in states[track.name]] for track in plain}
    flags = {track.name: [is_flagged(track, state) for state in states[track.name]] for track in disturbed if had_target(track)}
    chosen = {}
    for fold in {track.fold for track in (*plain, *disturbed)}:
        others = np.array([flags[track.name] for track in disturbed if track.fold != fold and track.name in flags])
        enough = [number for number in range(len(LEVELS)) if len(others) and others[:, number].mean() >= FLAGGED]
        chosen[fold] = min(enough, default=len(LEVELS) - 1)
    kept = {track.name: share for track in plain if not np.isnan(share := shares[track.name][chosen[track.fold]])}
    most = max(kept, key=kept.__getitem__)
    return {
        "gone": {LEVELS[number]: list(chosen.values()).count(number) for number in sorted(set(chosen.values()))},
        "folds": len(chosen),
        "clips": len(kept),
        "good_frames": sum(int(good_frames(track).sum()) for track in plain),
        "false_lost": float(np.mean(list(kept.values()))),
        "false_lost_interval": interval(by_target(kept)),
        "false_lost_most": [most, kept[most]],
        "false_lost_over_a_tenth": sum(value > 0.1 for value in kept.values()),
        **{
            key: value
            for key, value in disturbances(disturbed, [states[track.name][chosen[track.fold]] for track in disturbed]).items()
            if key in ("flagged", "wrong_returns")
        },
    }


def separation(tracks: list[Track]) -> dict[str, Any]:
    """Area under the ROC curve of the confidence and of the raw score, single frames and means of five: IoU above GOOD against below 0.1."""
    values: dict[str, list[list[float]]] = {name: [[], []] for name in ("confidence", "score", "confidence_5", "score_5")}
    for track in tracks:
        usual, confidence = AppearanceModel(), []
        for seen in track.seen:
            confidence.append(usual.confidence(seen))
            if confidence[-1] >= StateThresholds().confident:
                usual.learn(seen)
        signals = {"confidence": np.array(confidence), "score": np.array([seen.score for seen in track.seen])}
        for name, signal in signals.items():
            means = np.array([signal[max(0, index - 4) : index + 1].mean() for index in range(len(signal))])
            for key, one in ((name, signal), (f"{name}_5", means)):
                values[key][0] += one[good_frames(track)].tolist()
                values[key][1] += one[track.public < 0.1].tolist()
    counts = {"good_frames": len(values["score"][0]), "frames_without_target": len(values["score"][1])}
    return {**{name: _roc(*parts) for name, parts in values.items()}, **counts}


def _roc(high: list[float], low: list[float]) -> float:
    ordered = np.sort(low)
    below = np.searchsorted(ordered, high, "left") + np.searchsorted(ordered, high, "right")
    return float(below.mean() / (2 * len(ordered)))
