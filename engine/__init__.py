"""ESAT inference engine: follows any object from one box."""

from engine.config import PRESETS, ModelConfig, preset
from engine.errors import EsatError
from engine.model.network import build_model

__all__ = ["PRESETS", "EsatError", "ModelConfig", "build_model", "preset"]
