"""Weights: the shipped file, safetensors with metadata, and the mapping from public OSTrack checkpoints."""

from engine.weights.io import Weights, file_hash, load_weights, save_weights
from engine.weights.ostrack import from_ostrack
from engine.weights.shipped import DEFAULT_MODEL, find_weights, shipped_path

__all__ = ["DEFAULT_MODEL", "Weights", "file_hash", "find_weights", "from_ostrack", "load_weights", "save_weights", "shipped_path"]
