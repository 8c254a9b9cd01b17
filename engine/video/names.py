"""What sources are called in messages and files."""

from __future__ import annotations

import re
from pathlib import Path

_USER = re.compile(r"^([a-z][a-z0-9+.-]*://)[^/?#]*@", re.IGNORECASE)


def shown(source: str | Path) -> str:
    """The source as it may be shown and stored: `without_password`, `as_text`."""
    return as_text(without_password(source))


def without_password(source: str | Path) -> str:
    """The source as it was typed, but a URL without user name and password."""
    return _USER.sub(r"\1", str(source))


def as_text(name: str) -> str:
    """`name` with a question mark for each byte that is no UTF-8: files may be named so, but it cannot be written as text."""
    return name.encode("utf-8", "replace").decode()
