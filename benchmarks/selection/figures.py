"""What the boxes of the contenders say: AUC by scale and sequence, differences to the first contender, and which file is shipped."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.loss.figures import interval
from benchmarks.selection.clips import Excerpt
from benchmarks.selection.runs import Contender
from engine.datasets.text import Floats
from engine.evaluation.metrics import Truth, evaluate
from engine.evaluation.tables import markdown_table

SIZES = {1: "full", 2: "half", 4: "quarter"}  # those that the rule asks for


@dataclasses.dataclass(frozen=True)
class Row:
    """A contender's AUC on a set of clips of one scale, percent: the mean over sequences of the mean over a sequence's clips."""

    contender: str
    clips: str  # "starts" or "whole"
    scale: int
    auc: float
    sequences: dict[str, float]
    clip_count: int
    frame_count: int
    difference: float | None = None  # to the first contender
    interval: tuple[float, float] | None = None  # of the difference: 95 %, paired bootstrap over sequences


def row(contender: Contender, kind: str, scale: int, clips: Iterable[Excerpt], boxes: Mapping[tuple[str, str], Floats]) -> Row:
    """The figures of a contender's boxes, by (contender's name, clip's name), on clips of one scale."""
    by_sequence: dict[str, list[float]] = {}
    count = frames = 0
    for clip in clips:
        truth = Truth(clip.name, clip.boxes())
        auc = evaluate("otb", truth, boxes[contender.name, clip.name][: len(clip)]).values["AUC"]
        by_sequence.setdefault(clip.sequence.name, []).append(auc)
        count, frames = count + 1, frames + len(clip)
    means = {name: float(np.mean(values)) for name, values in by_sequence.items()}
    return Row(contender.name, kind, scale, float(np.mean(list(means.values()))), means, count, frames)


def against(row: Row, first: Row) -> Row:
    """The row with its difference to that of the first contender on the same clips."""
    differences = [value - first.sequences[name] for name, value in row.sequences.items()]
    low, high = interval([value] for value in differences)
    return dataclasses.replace(row, difference=float(np.mean(differences)), interval=(low, high))


def choose(rows: Sequence[Row], contenders: Sequence[Contender]) -> dict[str, Any]:
    """Which file is shipped: the first one, unless another is better at each of SIZES by the mean over its clips from several starts; of several
    such files the one with the best mean over the sizes. A size that was not run is none at which a file is better. Peers are never shipped."""
    means: dict[str, dict[int, float]] = {}
    for one in rows:
        if one.clips == "starts":
            means.setdefault(one.contender, {})[one.scale] = one.auc
    first, *others = (contender.name for contender in contenders if not contender.peer)
    better = {
        name: [size for scale, size in SIZES.items() if scale in means[name] and means[name][scale] > means[first][scale]]
        for name in others
    }
    winners = [name for name in others if len(better[name]) == len(SIZES)]
    shipped = max(winners, key=lambda name: float(np.mean([means[name][scale] for scale in SIZES])), default=first)
    return {"shipped": shipped, "instead_of": first, "better_at": better}


def verdict(choice: Mapping[str, Any]) -> str:
    """The choice in a line."""
    sizes = ", ".join(SIZES.values())
    if choice["shipped"] != choice["instead_of"]:
        return f"{choice['shipped']} would be shipped instead of {choice['instead_of']}: better at every size ({sizes})."
    losers = "; ".join(f"{name} is better at {', '.join(found) or 'none'} of {sizes}" for name, found in choice["better_at"].items())
    return f"{choice['shipped']} stays" + (f": {losers}." if losers else ": it is alone.")


def table(rows: Sequence[Row], kind: str) -> tuple[list[str], list[list[str]]]:
    """Head and cells: a line a contender and size."""
    head = ["weights", "size", "AUC", "difference", "95 % interval", "sequences", "clips", "frames"]
    cells = []
    for one in rows:
        if one.clips == kind:
            gap = "" if one.difference is None else f"{one.difference:+.1f}"
            bounds = "" if one.interval is None else f"{one.interval[0]:+.1f} to {one.interval[1]:+.1f}"
            counts = [str(len(one.sequences)), str(one.clip_count), str(one.frame_count)]
            cells.append([one.contender, SIZES.get(one.scale, f"1/{one.scale}"), f"{one.auc:.1f}", gap, bounds, *counts])
    return head, cells


def sequence_table(rows: Sequence[Row], kind: str) -> tuple[list[str], list[list[str]]]:
    """Head and cells: a line a sequence, a column a contender and size."""
    chosen = [one for one in rows if one.clips == kind]
    head = ["sequence", *(f"{one.contender}, {SIZES.get(one.scale, f'1/{one.scale}')}" for one in chosen)]
    names = dict.fromkeys(name for one in chosen for name in one.sequences)
    return head, [[name, *(f"{one.sequences[name]:.1f}" if name in one.sequences else "" for one in chosen)] for name in names]


def markdown(rows: Sequence[Row], choice: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """The report."""
    starts = ", ".join(map(str, about["starts"]))
    parts = [
        "# Which weights",
        f"AUC in percent (OTB preset), public loop, {about['dtype']}, {about['folder']}, on {about['cpu']} ({about['isa']}). Reduced frames: "
        f"INTER_AREA, then JPEG of quality {about['jpeg_quality']}. A mean is over sequences, and before that over a sequence's clips; "
        "differences are to the first file, with the 95 % interval of a paired bootstrap over sequences. The rule: a file replaces the first "
        "one if it is better at full, half and quarter size by the mean.",
        f"**{verdict(choice)}**",
        f"## From frames {starts}, at most {about['frames'] or 'all'} frames each: {about['clips'][0]} of {about['clips'][1]} clips",
        markdown_table(*table(rows, "starts")).strip(),
    ]
    if any(one.clips == "whole" for one in rows):
        parts += ["## Whole sequences from the first frame", markdown_table(*table(rows, "whole")).strip()]
    for kind, title in (("starts", f"Sequence by sequence, from frames {starts}"), ("whole", "Sequence by sequence, whole")):
        if any(one.clips == kind for one in rows):
            parts += [f"## {title}", markdown_table(*sequence_table(rows, kind)).strip()]
    return "\n\n".join(parts) + "\n"
