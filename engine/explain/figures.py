"""The pictures: one row a frame as in figure 5, four correlation matrices as in figure 1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from engine.boxes import Box
from engine.explain.capture import FloatMap, Insight
from engine.files import PendingFile

GROUND_TRUTH, PREDICTION = (0, 200, 0), (40, 90, 255)  # RGB, as in the paper: green and blue
_PANEL = 256  # pixels of each picture in a row
_VIEW = 8  # side of the result's picture, in box sizes


def row(insight: Insight, frame: NDArray[np.uint8], box: Box, truth: Box | None) -> NDArray[np.uint8]:
    """One frame's pictures side by side, RGB uint8 [256, 256 n, 3]: search region with the template in its corner, what each elimination
    left of it, attention, score map, feature map, and the frame (BGR) around the target with the boxes."""
    search = _fit(insight.search_image)
    inset = search.copy()
    inset[: _PANEL // 3, : _PANEL // 3] = cv2.resize(insight.template_image, (_PANEL // 3, _PANEL // 3), interpolation=cv2.INTER_AREA)
    panels = [inset]
    panels += [_blank_eliminated(search, kept) for kept in insight.kept]
    panels += [_heat(values, search) for values in (insight.attention, insight.score_map, insight.feature_map)]
    panels.append(_boxes(frame, box, truth))
    for panel in panels:
        panel[:, -2:] = 60  # a line between the pictures: eliminated tokens are white
    return np.concatenate(panels, axis=1)


def titles(insight: Insight) -> list[str]:
    """The columns of `row`."""
    kept = [f"{int(mask.sum())} tokens kept" for mask in insight.kept]
    return ["search region, template", *kept, "attention of the template centre", "score map", "feature norm", "result (green: truth)"]


def save_rows(path: Path, rows: Sequence[NDArray[np.uint8]], columns: Sequence[str], labels: Sequence[str]) -> None:
    """All rows in one PNG with titles. SinkError if it cannot be written."""
    figure = Figure(figsize=(2.33 * len(columns), 2.45 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 1, squeeze=False)
    for axis, picture, label in zip(axes[:, 0], rows, labels, strict=True):
        axis.imshow(picture)
        axis.set_yticks([])
        axis.set_xticks([_PANEL * (index + 0.5) for index in range(len(columns))], columns if axis is axes[0, 0] else [], fontsize=8)
        axis.xaxis.tick_top()
        axis.tick_params(length=0)
        axis.set_ylabel(label, fontsize=8)
    _save(figure, path)


def save_correlations(path: Path, matrices: dict[str, FloatMap], num_template: int) -> None:
    """The matrices side by side, lines between template and search tokens. SinkError if it cannot be written."""
    figure = Figure(figsize=(4.2 * len(matrices), 4.1), layout="constrained")
    axes = figure.subplots(1, len(matrices))
    features = np.concatenate([values.ravel() for name, values in matrices.items() if name.startswith("features")])  # one scale for these
    for axis, (name, values) in zip(axes, matrices.items(), strict=True):
        low, high = np.quantile(features if name.startswith("features") else values, (0.01, 0.99))
        image = axis.imshow(values, cmap="magma", vmin=low, vmax=high)
        axis.axhline(num_template - 0.5, color="white", linewidth=0.8)
        axis.axvline(num_template - 0.5, color="white", linewidth=0.8)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("template tokens | search tokens", fontsize=8)
        axis.tick_params(labelsize=7)
        figure.colorbar(image, ax=axis, fraction=0.045)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with PendingFile(path) as pending:
        figure.savefig(pending.partial, dpi=110, bbox_inches="tight", format="png")


def _fit(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(image, (_PANEL, _PANEL), interpolation=cv2.INTER_AREA), np.uint8)


def _enlarge(values: NDArray[np.generic], interpolation: int) -> FloatMap:
    return np.asarray(cv2.resize(values.astype(np.float32), (_PANEL, _PANEL), interpolation=interpolation), np.float32)


def _blank_eliminated(search: NDArray[np.uint8], kept: NDArray[np.bool_]) -> NDArray[np.uint8]:
    mask = _enlarge(kept, cv2.INTER_NEAREST)[:, :, None]
    return np.asarray(search * mask + 255 * (1 - mask), np.uint8)


def _heat(values: FloatMap, search: NDArray[np.uint8]) -> NDArray[np.uint8]:
    low, high = float(values.min()), float(values.max())
    level = (255 * (_enlarge(values, cv2.INTER_LINEAR) - low) / max(high - low, 1e-9)).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
    return np.asarray(cv2.addWeighted(colours, 0.6, search, 0.4, 0), np.uint8)


def _boxes(frame: NDArray[np.uint8], box: Box, truth: Box | None) -> NDArray[np.uint8]:
    """A square of the frame around the target, wide enough to show where it is, with both boxes; black beyond the frame's border."""
    height, width = frame.shape[:2]
    side = float(np.clip(_VIEW * max(box[2:]), _PANEL / 2, max(height, width)))
    left, top = (
        min(max(start + extent / 2 - side / 2, 0), limit - side) if side <= limit else (limit - side) / 2
        for start, extent, limit in ((box[0], box[2], width), (box[1], box[3], height))
    )
    factor = _PANEL / side
    placed = np.array([[factor, 0, -left * factor], [0, factor, -top * factor]])
    panel = cv2.warpAffine(frame, placed, (_PANEL, _PANEL), flags=cv2.INTER_LINEAR if factor > 0.7 else cv2.INTER_AREA)
    panel = cv2.cvtColor(panel, cv2.COLOR_BGR2RGB)
    for rectangle, colour in ((truth, GROUND_TRUTH), (box, PREDICTION)):
        if rectangle is not None and np.isfinite(rectangle).all():
            x, y, w, h = rectangle
            start, end = ((round((u - left) * factor), round((v - top) * factor)) for u, v in ((x, y), (x + w, y + h)))
            cv2.rectangle(panel, start, end, colour, 1 if side > 3 * _PANEL else 2, cv2.LINE_AA)
    return np.asarray(panel, np.uint8)
