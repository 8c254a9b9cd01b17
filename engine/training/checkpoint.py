"""The file that a run goes on from: complete or as it was before."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import torch

from engine.config import ModelConfig
from engine.errors import ConfigError, SinkError, WeightsError

CHECKPOINT = "checkpoint.pt"
_LOCK = "run.lock"
_STATE = {"model", "averaged", "optimizer", "step", "seconds", "model_config"}  # what it holds


def _reason(error: Exception) -> str:
    """The first line of what PyTorch's reader or writer said; some of its errors say nothing."""
    return (str(error) or type(error).__name__).splitlines()[0]


def read_state(path: Path, model: ModelConfig, device: torch.device) -> dict[str, Any]:
    """What `write_state` wrote. WeightsError for a damaged or foreign file, ConfigError for one of another model."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise WeightsError(f"cannot read the checkpoint {path}; remove it to start again: {_reason(error)}") from error
    if not isinstance(state, dict) or not state.keys() >= _STATE:
        raise WeightsError(f"{path} is not a checkpoint of a run: expected {', '.join(sorted(_STATE))}")
    if state["model_config"] != model.to_dict():
        raise ConfigError(f"{path} belongs to another model: {state['model_config']}")
    return state


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write the checkpoint; it appears under its name only when it is complete. SinkError: the one before is kept."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        torch.save(state, partial)
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # PyTorch's writer reports a full disk as RuntimeError
        partial.unlink(missing_ok=True)
        raise SinkError(f"cannot write {path}: {_reason(error)}; the checkpoint before is kept") from error


@contextlib.contextmanager
def only_run_in(folder: Path) -> Iterator[None]:
    """Keep a second run out of the folder, whose log and checkpoint it would mix with this one's. ConfigError if this is the second.

    The system gives the lock back when a process ends, however it does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / _LOCK)
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise ConfigError(f"{folder}: another training run is at work in this folder; stop it first, or choose another folder") from None
    except OSError as error:
        raise SinkError(f"cannot write to {folder}: {_reason(error)}") from error
    try:
        yield
    finally:
        lock.release()
