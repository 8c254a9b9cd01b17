"""ESAT inference engine: follows any object from one box. Names are imported when they are first used, so that `esat --help` is quick."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine import weights
    from engine.config import PRESETS, ModelConfig, preset
    from engine.errors import EsatError
    from engine.model.network import build_model
    from engine.tracking.config import TrackerConfig
    from engine.tracking.multi import MultiTracker
    from engine.tracking.state import StateThresholds, TargetState
    from engine.tracking.target import Result
    from engine.tracking.tracker import Tracker
    from esat_kernels import Nv12

_HOME = {
    "PRESETS": "engine.config",
    "EsatError": "engine.errors",
    "ModelConfig": "engine.config",
    "MultiTracker": "engine.tracking.multi",
    "Nv12": "esat_kernels",
    "Result": "engine.tracking.target",
    "StateThresholds": "engine.tracking.state",
    "TargetState": "engine.tracking.state",
    "Tracker": "engine.tracking.tracker",
    "TrackerConfig": "engine.tracking.config",
    "build_model": "engine.model.network",
    "preset": "engine.config",
}

__all__ = [
    "PRESETS",
    "EsatError",
    "ModelConfig",
    "MultiTracker",
    "Nv12",
    "Result",
    "StateThresholds",
    "TargetState",
    "Tracker",
    "TrackerConfig",
    "build_model",
    "preset",
    "weights",
]


def __getattr__(name: str) -> Any:
    if name == "weights":
        return importlib.import_module("engine.weights")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'engine' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
