"""Boxes and labels on frames."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from engine.errors import ConfigError
from engine.video.sinks import Record

Color = tuple[int, int, int]  # blue, green, red
Annotate = Callable[[np.ndarray, Sequence[Record]], np.ndarray]  # a new picture from an image and what was found in it

COLORS: dict[str, Color] = {
    "green": (60, 220, 60),
    "red": (50, 50, 240),
    "blue": (240, 120, 40),
    "yellow": (40, 220, 250),
    "cyan": (230, 220, 40),
    "magenta": (220, 60, 220),
    "white": (255, 255, 255),
}
_SEVERAL: tuple[Color, ...] = (  # told apart by most colour-blind eyes (Okabe and Ito's palette, lightened)
    (60, 220, 60),
    (233, 180, 86),
    (0, 159, 230),
    (66, 228, 240),
    (167, 121, 204),
    (178, 114, 0),
    (0, 94, 213),
    (255, 255, 255),
)
_DOUBT = {"UNCERTAIN": (0, 190, 255), "LOST": (50, 50, 240)}  # states that are worth another colour


def parse_color(text: str) -> Color:
    """A name of `COLORS` or #RRGGBB, as BGR. ConfigError for anything else."""
    if text.lower() in COLORS:
        return COLORS[text.lower()]
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        raise ConfigError(f"color must be #RRGGBB or one of {', '.join(COLORS)}, got {text!r}")
    value = int(text[1:], 16)
    return value & 255, value >> 8 & 255, value >> 16


def target_color(target: int) -> Color:
    """The colour of one of several targets, by its id; the same in every output."""
    return _SEVERAL[(target - 1) % len(_SEVERAL)]


def draw(image: np.ndarray, records: Sequence[Record], color: Color = COLORS["green"], several: bool = False) -> np.ndarray:
    """A copy of `image` (uint8 BGR [H, W, 3]) with each record's box, and its score and state where there is room for letters.

    several: boxes have their target's colour and id, whatever the state; otherwise `color`, or that of a state other than TRACKING.
    """
    canvas = image.copy()
    height, width = canvas.shape[:2]
    line = max(1, round(min(height, width) / 160))
    scale = min(height, width) / 600
    for record in records:
        own = target_color(record.target) if several else _DOUBT.get(str(record.state), color)
        x, y, w, h = record.box
        left, top, right, bottom = (round(min(max(value, -32_000), 32_000)) for value in (x, y, x + w, y + h))
        cv2.rectangle(canvas, (left, top), (right, bottom), own, line)
        if scale >= 0.2:
            label = f"{record.score:.2f}" if record.state == "TRACKING" else f"{record.score:.2f} {record.state}"
            _label(canvas, f"{record.target}: {label}" if several else label, left, top, max(scale, 0.35), own, line)
    return canvas


def _label(canvas: np.ndarray, text: str, left: int, top: int, scale: float, color: Color, line: int) -> None:
    (text_width, text_height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, line)
    height, width = canvas.shape[:2]
    x = int(np.clip(left, 0, max(0, width - text_width - 2)))
    y = int(np.clip(top - below - 1, text_height + 1, max(text_height + 1, height - below - 1)))
    cv2.rectangle(canvas, (x, y - text_height - 1), (x + text_width + 1, y + below), color, cv2.FILLED)
    cv2.putText(canvas, text, (x + 1, y), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), line, cv2.LINE_AA)
