"""What the tests of commands share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.config import ModelConfig
from engine.model.network import build_model
from engine.weights.io import save_weights


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small model, untrained: what it finds does not matter here."""
    torch.manual_seed(0)
    config = ModelConfig(name="tiny", dim=96, heads=3, depth=12, head_channels=32, template_size=128, search_size=256, search_factor=4.0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, build_model(config).state_dict(), config)
    return path
