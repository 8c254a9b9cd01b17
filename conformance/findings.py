"""What a check of a golden file is asked and what it answers."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Target:
    """What is checked."""

    backend: str = "reference"
    dtype: str = "fp32"
    device: str = "cpu"

    @property
    def half(self) -> bool:
        return self.dtype in ("bf16", "fp16")


@dataclasses.dataclass
class Finding:
    """`max_abs_error` in the kind's own unit; `removed_equal` only where tokens are eliminated; `details` says more."""

    max_abs_error: float
    ok: bool
    removed_equal: bool | None = None
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
