"""Boxes and labels on frames."""

from __future__ import annotations

import re
from collections.abc import Callable

import cv2
import numpy as np

from engine.errors import ConfigError
from engine.video.sinks import Record

Color = tuple[int, int, int]  # blue, green, red
Annotate = Callable[[np.ndarray, Record], np.ndarray]  # a new picture from an image and what was found in it

COLORS: dict[str, Color] = {
    "green": (60, 220, 60),
    "red": (50, 50, 240),
    "blue": (240, 120, 40),
    "yellow": (40, 220, 250),
    "cyan": (230, 220, 40),
    "magenta": (220, 60, 220),
    "white": (255, 255, 255),
}
_DOUBT = {"UNCERTAIN": (0, 190, 255), "LOST": (50, 50, 240)}  # states that are worth another colour


def parse_color(text: str) -> Color:
    """A name of `COLORS` or #RRGGBB, as BGR. ConfigError for anything else."""
    if text.lower() in COLORS:
        return COLORS[text.lower()]
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        raise ConfigError(f"color must be #RRGGBB or one of {', '.join(COLORS)}, got {text!r}")
    value = int(text[1:], 16)
    return value & 255, value >> 8 & 255, value >> 16


def draw(image: np.ndarray, record: Record, color: Color = COLORS["green"]) -> np.ndarray:
    """A copy of `image` (uint8 BGR [H, W, 3]) with the record's box, and its score and state where there is room for letters."""
    canvas = image.copy()
    height, width = canvas.shape[:2]
    color = _DOUBT.get(str(record.state), color)
    line = max(1, round(min(height, width) / 160))
    x, y, w, h = record.box
    left, top, right, bottom = (round(min(max(value, -32_000), 32_000)) for value in (x, y, x + w, y + h))
    cv2.rectangle(canvas, (left, top), (right, bottom), color, line)
    scale = min(height, width) / 600
    if scale >= 0.2:
        label = f"{record.score:.2f}" if record.state == "TRACKING" else f"{record.score:.2f} {record.state}"
        _label(canvas, label, left, top, max(scale, 0.35), color, line)
    return canvas


def _label(canvas: np.ndarray, text: str, left: int, top: int, scale: float, color: Color, line: int) -> None:
    (text_width, text_height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, line)
    height, width = canvas.shape[:2]
    x = int(np.clip(left, 0, max(0, width - text_width - 2)))
    y = int(np.clip(top - below - 1, text_height + 1, max(text_height + 1, height - below - 1)))
    cv2.rectangle(canvas, (x, y - text_height - 1), (x + text_width + 1, y + below), color, cv2.FILLED)
    cv2.putText(canvas, text, (x + 1, y), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), line, cv2.LINE_AA)
