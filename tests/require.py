"""Skips that cannot hide a failure: what ESAT_REQUIRE names must be there."""

from __future__ import annotations

import os

import pytest

_REQUIRED = frozenset(filter(None, os.environ.get("ESAT_REQUIRE", "").split(",")))


def require(feature: str, reason_missing: str | None) -> None:
    """Skip the test if `feature` is missing for `reason_missing` (None: it is there); fail instead if ESAT_REQUIRE lists the feature."""
    if reason_missing is None:
        return
    if feature in _REQUIRED:
        pytest.fail(f"ESAT_REQUIRE asks for {feature!r}, but: {reason_missing}")
    pytest.skip(f"{feature}: {reason_missing}")
