"""What a command says while it works where no terminal shows a bar: plain lines on standard error."""

from __future__ import annotations

import sys
import time


def bar_is_shown() -> bool:
    """Whether standard error is a terminal, on which bars are drawn instead of lines."""
    return sys.stderr is not None and sys.stderr.isatty()


def say(text: str) -> None:
    """One line on standard error, at once; nothing where that is closed, since `print` would take standard output."""
    if sys.stderr is not None:
        print(text, file=sys.stderr, flush=True)


class Pace:
    """Lets a line through at most every `seconds`; the first at once."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._next = seconds, 0.0

    def due(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True
