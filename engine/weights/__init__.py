"""Weights: the shipped file, safetensors with metadata, and the mapping from public OSTrack checkpoints."""

from engine.weights.ostrack import from_ostrack

__all__ = ["from_ostrack"]
