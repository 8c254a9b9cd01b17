"""Accuracy: metric presets, evaluation runs, reports. `evaluate` does all of it for a data set."""

from engine.evaluation.run import Evaluation, evaluate
from engine.evaluation.tracking import Settings

__all__ = ["Evaluation", "Settings", "evaluate"]
