"""The log of a run as pictures: one panel a loss term, with the validation AUC where there is one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import DatasetError

_PANELS = ("total", "focal", "giou", "l1", "absolute", "positive", "iou", "lr", "AUC")


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines log; a last line that was cut off is left out."""
    records = []
    for line in Path(path).read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    if not records:
        raise DatasetError(f"{path}: no records to plot")
    return records


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of each value and up to `window` - 1 before it."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    index = np.arange(1, len(values) + 1)
    first = np.maximum(index - window, 0)
    return (sums[index] - sums[first]) / (index - first)


def plot_curves(log: str | Path, path: str | Path) -> None:
    """Write the curves of `log` as PNG to `path`: the values of each step in grey, their running mean over it."""
    from matplotlib.figure import Figure

    records = read_log(log)
    panels = [name for name in _PANELS if any(name in record for record in records)]
    columns = 3
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.7 * rows), layout="constrained")
    for number, name in enumerate(panels):
        points = [(record["step"], record[name]) for record in records if name in record]
        steps, values = (np.array(column, dtype=float) for column in zip(*points, strict=True))
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.plot(steps, values, color="0.8", linewidth=0.6)
        axes.plot(steps, smooth(values, max(1, len(values) // 50)), color="tab:blue", linewidth=1.4)
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
