"""The check of golden metrics: made-up predictions and the figures that the public toolkits gave for them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.findings import Finding, Target
from engine.errors import DatasetError
from engine.evaluation import metrics

PERCENT_POINTS = 1e-4
_OTB_FIELDS = ("AUC", "P", "P_norm")


def check_metrics(path: Path, content: dict[str, Any], target: Target) -> Finding:
    """Every figure of the file, in percent points."""
    errors: dict[str, float] = {}
    scores: dict[str, list[metrics.Scores]] = {"otb": [], "pytracking": [], "got10k": []}
    by_pytracking = content.get("pytracking_preset", {})
    for name, sequence in content["sequences"].items():
        truth, predictions = _read(name, sequence)
        for preset, found in scores.items():
            found.append(metrics.evaluate(preset, truth, predictions, toolkit_rounding=preset != "got10k"))
        errors |= _differences(name, scores["otb"][-1].values, sequence, _OTB_FIELDS)
        errors[f"{name} AO"] = abs(scores["otb"][-1].values["AO"] - 100 * sequence["AO"])
        if by_pytracking:
            errors |= _differences(f"pytracking {name}", scores["pytracking"][-1].values, by_pytracking["sequences"][name], _OTB_FIELDS)
    errors |= _differences("mean", metrics.summarise("otb", scores["otb"]), content.get("OTB_preset", {}), _OTB_FIELDS)
    errors |= _differences("pytracking mean", metrics.summarise("pytracking", scores["pytracking"]), by_pytracking, _OTB_FIELDS)
    pooled = metrics.summarise("got10k", scores["got10k"])
    for field in (field for field in metrics.FIELDS if field in content.get("GOT10K_preset", {})):
        errors[f"pooled {field}"] = abs(pooled[field] - 100 * content["GOT10K_preset"][field])
    if "LaSOT_preset_absent" in content:
        errors |= _absent(content)
    worst = max(errors, key=lambda key: errors[key])
    return Finding(errors[worst], errors[worst] <= PERCENT_POINTS, None, {"figures": len(errors), "worst": worst})


def _read(name: str, sequence: dict[str, Any]) -> tuple[metrics.Truth, NDArray[np.float64]]:
    try:
        width, height = sequence["image_size"]
        truth = metrics.Truth(name, np.asarray(sequence["ground_truth"], np.float64), (int(width), int(height)))
        return truth, np.asarray(sequence["predictions"], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"metrics file, sequence {name!r}: {type(error).__name__}: {error}") from error


def _differences(what: str, found: dict[str, float], expected: dict[str, Any], fields: tuple[str, ...]) -> dict[str, float]:
    """Of the fields that the file has a figure for."""
    return {f"{what} {field}": abs(found[field] - expected[field]) for field in fields if field in expected}


def _absent(content: dict[str, Any]) -> dict[str, float]:
    expected = content["LaSOT_preset_absent"]
    truth, predictions = _read(expected["sequence"], content["sequences"][expected["sequence"]])
    absent = np.zeros(len(truth.boxes), bool)
    absent[slice(*expected["absent_frames"])] = True
    score = metrics.evaluate("lasot", dataclasses.replace(truth, absent=absent), predictions, toolkit_rounding=True)
    return _differences("absent", score.values, expected, _OTB_FIELDS)
