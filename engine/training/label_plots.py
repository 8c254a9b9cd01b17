"""Pictures of the position loss's labels, as in the paper's figure 3.

python -m engine.training.label_plots out.png --box 0.5,0.4,0.3,0.4
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from engine.config import ModelConfig, preset
from engine.training import labels


def plot_labels(box: Sequence[float], model: ModelConfig, path: str | Path) -> None:
    """Write a PNG: absolute and positive-negative labels of template and search tokens, and the centre's heat map, for `box` (cx, cy, w, h)."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    boxes = torch.tensor([list(box)], dtype=torch.float32)
    small, large = model.template_grid, model.search_grid
    absolute = labels.absolute_labels(boxes, small, large)[0].numpy()
    positive = labels.positive_labels(boxes, small, large)[0].numpy()
    split = model.num_template
    panels = [
        ("template, absolute", absolute[:split].reshape(small, small), model.num_search),
        ("search, absolute", absolute[split:].reshape(large, large), model.num_search),
        ("template, positive", positive[:split].reshape(small, small), 1),
        ("search, positive", positive[split:].reshape(large, large), 1),
        ("search, centre", labels.heat_map(boxes, large)[0, 0].numpy(), 1),
    ]
    figure = Figure(figsize=(4 * len(panels), 4.4), layout="constrained")
    for number, (title, grid, top) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        axes.imshow(grid, cmap="viridis", vmin=0, vmax=top)
        axes.set_title(title)
        if "absolute" in title:
            for (row, column), value in np.ndenumerate(grid):
                axes.text(column, row, str(value), ha="center", va="center", color="white", fontsize=5)
        if title.startswith("search"):
            cx, cy, w, h = (value * large for value in box)
            axes.add_patch(Rectangle((cx - w / 2 - 0.5, cy - h / 2 - 0.5), w, h, fill=False, edgecolor="red", linewidth=2))
    figure.savefig(path, dpi=90)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draw the labels of the position loss")
    parser.add_argument("out", type=Path)
    parser.add_argument("--box", default="0.5,0.4,0.3,0.4", help="cx,cy,w,h over the search region's side")
    parser.add_argument("--model", default="esat-s-256")
    options = parser.parse_args(arguments)
    plot_labels([float(value) for value in options.box.split(",")], preset(options.model), options.out)


if __name__ == "__main__":
    main()
