"""ESAT inference engine: follows any object from one box."""

from engine import weights
from engine.config import PRESETS, ModelConfig, preset
from engine.errors import EsatError
from engine.model.network import build_model
from engine.state import StateThresholds, TargetState
from engine.tracker import Result, Tracker, TrackerConfig

__all__ = [
    "PRESETS",
    "EsatError",
    "ModelConfig",
    "Result",
    "StateThresholds",
    "TargetState",
    "Tracker",
    "TrackerConfig",
    "build_model",
    "preset",
    "weights",
]
