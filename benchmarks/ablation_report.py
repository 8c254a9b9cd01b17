"""What an ablation's runs say: mean and spread over seeds, and the difference to a table's first row with its uncertainty."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.harness import machine
from engine.training.config import TrainConfig

_STUDENT_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # two-sided, for 1, 2, ... degrees of freedom


@dataclasses.dataclass(frozen=True)
class Variant:
    """Weights of the position losses (0: no such loss) and alpha = beta."""

    absolute: float
    positive: float
    force: float


@dataclasses.dataclass(frozen=True)
class Run:
    """One finished run: its seed and length, the mean IoU on held-out pairs and over its last training steps."""

    variant: Variant
    seed: int
    steps: int
    iou: float
    training_iou: float
    commit: str = "unknown"  # of the code that trained it

    def record(self) -> dict[str, Any]:
        """As one flat mapping."""
        values = dataclasses.asdict(self)
        return values.pop("variant") | values

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Run:
        """The inverse of `record`."""
        values = dict(record)
        return cls(Variant(values.pop("absolute"), values.pop("positive"), values.pop("force")), **values)


@dataclasses.dataclass(frozen=True)
class Row:
    """`iou` and `spread`: mean and standard deviation over `seeds` runs. `gain`: mean difference to the first row, seed by seed, `gain_95`: half
    of its 95 % interval (Student's t). None where there are too few runs."""

    table: int
    label: str
    seeds: int
    iou: float | None
    spread: float | None
    gain: float | None = None
    gain_95: float | None = None

    @property
    def significant(self) -> bool:
        """Whether the interval excludes no difference at all."""
        return self.gain is not None and self.gain_95 is not None and abs(self.gain) > self.gain_95


def summarise(runs: Sequence[Run], tables: Mapping[int, Mapping[str, Variant]]) -> list[Row]:
    """A row for each label of each table."""
    found: dict[Variant, dict[int, float]] = {}
    for run in runs:
        found.setdefault(run.variant, {})[run.seed] = run.iou
    rows = []
    for table, labels in tables.items():
        first = found.get(next(iter(labels.values())), {})
        for number, (label, variant) in enumerate(labels.items()):
            scores = found.get(variant, {})
            values = list(scores.values())
            gains = [scores[seed] - first[seed] for seed in scores if seed in first] if number else []
            several = len(gains) > 1
            rows.append(
                Row(
                    table,
                    label,
                    len(values),
                    statistics.mean(values) if values else None,
                    statistics.stdev(values) if len(values) > 1 else None,
                    statistics.mean(gains) if gains else None,
                    _STUDENT_95[min(len(gains) - 2, 8)] * statistics.stdev(gains) / math.sqrt(len(gains)) if several else None,
                )
            )
    return rows


def _number(value: float | None, form: str = "{:.3f}") -> str:
    return "-" if value is None else form.format(value)


def report(runs: Sequence[Run], tables: Mapping[int, Mapping[str, Variant]], config: TrainConfig) -> str:
    """Markdown: a table for each of the paper's, and what can be said of it."""
    rows = summarise(runs, tables)
    model, pairs = config.model, config.steps * config.batch
    lines = [
        "# Ablations, a replication at small scale",
        "",
        f"`python -m benchmarks.ablation`: {model.depth} layers of {model.dim}, {model.template_size}-px templates, {model.search_size}-px "
        f"search regions, {config.steps} steps of {config.batch} pairs ({pairs} in all; the paper: 18 million), from a pretrained backbone. "
        "Mean IoU on pairs of sequences that no run was trained on; spread: standard deviation over seeds. Gain: difference to the first row, "
        "seed by seed, with its 95 % interval. "
        "Runs this short compare how fast a model begins to learn, not what it reaches.",
    ]
    for table in tables:
        part = [row for row in rows if row.table == table]
        lines += ["", f"## Table {table}", "", "| row | IoU | spread | gain | seeds |", "|---|---|---|---|---|"]
        for row in part:
            gain = "-" if row.gain is None else f"{row.gain:+.3f}" + ("" if row.gain_95 is None else f" +- {row.gain_95:.3f}")
            lines.append(f"| {row.label} | {_number(row.iou)} | {_number(row.spread)} | {gain} | {row.seeds} |")
        clear = [f"{row.label} ({row.gain:+.3f})" for row in part if row.significant]
        judged = sum(row.gain_95 is not None for row in part)
        if judged:
            chance = f"with {judged} comparisons about {0.05 * judged:.1f} would be outside by chance"
            verdict = (
                f"Outside of their interval: {', '.join(clear)}; {chance}."
                if clear
                else "No row differs from the first beyond its interval."
            )
            lines += ["", verdict]
        else:
            lines += ["", "Too few runs to say anything."]
    return "\n".join(lines) + "\n"


def _plot(rows: Sequence[Row], runs: Sequence[Run], tables: Mapping[int, Mapping[str, Variant]], path: Path) -> None:
    figure = Figure(figsize=(8, 1.2 + 0.32 * len(rows)), layout="constrained")
    panels = figure.subplots(len(tables), 1, sharex=True, squeeze=False, height_ratios=[len(labels) for labels in tables.values()])[:, 0]
    for axes, (table, labels) in zip(panels, tables.items(), strict=True):
        for y, (label, variant) in enumerate(labels.items()):
            values = [run.iou for run in runs if run.variant == variant]
            axes.plot(values, [y] * len(values), "o", color="0.6", markersize=4)
            row = next(row for row in rows if (row.table, row.label) == (table, label))
            if row.iou is not None:
                axes.errorbar(row.iou, y, xerr=row.spread or 0, fmt="D", color="tab:blue", capsize=3)
        axes.set_yticks(range(len(labels)), list(labels), fontsize=8)
        axes.invert_yaxis()
        axes.set_title(f"table {table}", fontsize=9)
        axes.grid(axis="x", alpha=0.3)
    panels[-1].set_xlabel("mean IoU on held-out pairs: single runs, mean and standard deviation")
    figure.savefig(path, dpi=110)


def write_report(runs: Sequence[Run], tables: Mapping[int, Mapping[str, Variant]], config: TrainConfig, folder: Path) -> None:
    """ablation.json (machine, settings, runs, rows), ablation.md and ablation.png in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = summarise(runs, tables)
    settings = {key: value for key, value in config.to_dict().items() if key not in ("data", "init", "notes", "pseudo", "layouts")}
    content = {
        "what": "small-scale replication of the paper's ablations",
        "machine": machine(),
        "settings": settings,
        "runs": [run.record() for run in runs],
        "rows": [dataclasses.asdict(row) | {"significant": row.significant} for row in rows],
    }
    (folder / "ablation.json").write_text(json.dumps(content, indent=1) + "\n")
    (folder / "ablation.md").write_text(report(runs, tables, config))
    _plot(rows, runs, tables, folder / "ablation.png")
