"""Table 2 for the terminal, as Markdown, and the frames/s as bars beside the paper's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from engine.evaluation.tables import markdown_table

Row = dict[str, Any]

_COUNTS = (
    ("params M", "params_m", 1),
    ("paper", "paper_params_m", 1),
    ("MACs G", "macs_g", 1),
    ("paper", "paper_macs_g", 1),
    ("all products G", "macs_all_g", 2),
    ("engine G", "macs_engine_g", 2),
    ("paper fps", "paper_fps", 1),
)


def measured(rows: list[Row]) -> list[tuple[str, str]]:
    """(device, protocol and dtype) of every column of measured frames/s."""
    return sorted({(device, protocol) for row in rows for device, values in row["fps"].items() for protocol in values})


def table(rows: list[Row], device: str | None = None) -> tuple[list[str], list[list[str]]]:
    """Head and cells, with the frames/s of one device or of all; empty where nothing was measured."""
    columns = [column for column in measured(rows) if device in (None, column[0])]
    head = [
        "ABS",
        "PN",
        "FDA",
        *(name for name, _, _ in _COUNTS),
        *(protocol if device else f"{on} {protocol}" for on, protocol in columns),
        "ok",
    ]
    cells = [
        [
            *("x" if row[key] else "" for key in ("abs", "pn", "fda")),
            *(f"{row[key]:.{digits}f}" for _, key, digits in _COUNTS),
            *(f"{row['fps'][on][protocol]:.1f}" if protocol in row["fps"].get(on, {}) else "" for on, protocol in columns),
            "ok" if row["ok"] else "differs",
        ]
        for row in rows
    ]
    return head, cells


def machines(measurements: list[Row]) -> str:
    """What was measured where; the measurements of a device can be of several commits and versions."""
    by_machine: dict[str, list[str]] = {}
    for entry in measurements:
        where = ", ".join(f"{key} {value}" for key, value in entry["machine"].items() if value is not None)
        by_machine.setdefault(where, []).append(f"{entry['protocol']} {entry['dtype']}")
    if len(by_machine) == 1:
        return f" Measured on {next(iter(by_machine))}."
    return "".join(f" {', '.join(sorted(set(columns)))} measured on {where}." for where, columns in by_machine.items())


def markdown(rows: list[Row], device: str | None = None, measurements: list[Row] | None = None, picture: str | None = None) -> str:
    """The table with what its columns mean, and where `measurements`, those of the device, were made."""
    where = machines(measurements or [])
    note = (
        "Parameters and MACs by thop's convention beside the paper's digits; `all products` counts every matrix product, `engine` what our "
        "engine computes. Frames/s by protocol: `public` as OSTrack's profile_model.py, `honest` in evaluation mode with the box read back, "
        f"`engine` crop, network and decode. An empty cell was not measured; the paper's frames/s are its authors' GPU.{where}"
    )
    image = f"\n![frames per second]({picture})\n" if picture else ""
    return f"# Table 2\n\n{note}\n\n{markdown_table(*table(rows, device))}{image}"


def plot(rows: list[Row], device: str, path: Path) -> None:
    """Left: the paper's frames/s of each row. Right: ours on one device. Each has its own scale: the devices differ."""
    columns = [protocol for on, protocol in measured(rows) if on == device]
    names = ["+".join(key.upper() for key in ("abs", "pn", "fda") if row[key]) or "base" for row in rows]
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 2.2))
    left.bar(names, [row["paper_fps"] for row in rows], color="tab:gray")
    left.set_title("the paper, on its authors' GPU", fontsize=10)
    width = 0.8 / max(1, len(columns))
    for index, protocol in enumerate(columns):
        known = [(x, row["fps"][device][protocol]) for x, row in enumerate(rows) if protocol in row["fps"].get(device, {})]
        positions, values = zip(*known, strict=True)
        right.bar(np.array(positions) + (index - (len(columns) - 1) / 2) * width, values, width, label=protocol)
    right.set_xticks(range(len(names)), names)
    right.set_title(f"measured on {device}", fontsize=10)
    if columns:
        right.legend(fontsize=8, ncols=2)
    for axis in (left, right):
        axis.set_ylabel("frames/s, batch 1")
        axis.tick_params(axis="x", labelrotation=35, labelsize=8)
        axis.grid(alpha=0.3, axis="y")
    figure.savefig(path, dpi=110)
