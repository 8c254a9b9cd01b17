"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.require import require

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with golden files and real sequences: ESAT_SHARED, or `../shared` beside the repository."""
    folder = Path(os.environ.get("ESAT_SHARED", REPOSITORY.parent / "shared"))
    require("shared", None if (folder / "oracle").is_dir() else f"no golden files and data at {folder}")
    return folder
