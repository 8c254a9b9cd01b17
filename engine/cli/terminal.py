"""Where commands print for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console


def terminal(**options: Any) -> Console:
    """A `Console` that shows names as they are: rich makes pictures of words between colons, such as those in paths."""
    return Console(emoji=False, **options)
