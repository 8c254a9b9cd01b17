"""From results to figures: scores of one or several trackers, as JSON, as tables for the terminal and as Markdown."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from engine.datasets.sequences import Failure, Sequence
from engine.datasets.text import Floats
from engine.errors import EsatError
from engine.evaluation import metrics
from engine.evaluation.metrics import Scores, Truth
from engine.evaluation.tables import markdown_table

COLUMNS = {
    "otb": ("AUC", "P", "P_norm", "AO"),
    "pytracking": ("AUC", "P", "P_norm", "AO"),
    "lasot": ("AUC", "P", "P_norm", "AO"),
    "trackingnet": ("AUC", "P", "P_norm", "AO"),
    "got10k": ("AO", "SR_0.5", "SR_0.75", "AUC"),
}


@dataclasses.dataclass
class TrackerReport:
    """One tracker's scores on the sequences whose ground truth is public."""

    name: str
    preset: str
    scores: dict[str, Scores]
    fps: dict[str, float]  # by sequence, where it was measured
    failures: list[Failure]

    @property
    def mean(self) -> dict[str, float]:
        """metrics.FIELDS over the scored sequences; empty if there is none."""
        return metrics.summarise(self.preset, list(self.scores.values())) if self.scores else {}

    @property
    def mean_fps(self) -> float:
        """Frames per second over all frames whose time was measured; NaN if none was."""
        measured = [(self.scores[name].frames - 1, fps) for name, fps in self.fps.items() if name in self.scores and fps > 0]
        seconds = sum(frames / fps for frames, fps in measured)
        return sum(frames for frames, _ in measured) / seconds if seconds else math.nan


def score(
    name: str,
    preset: str,
    truths: Mapping[str, Truth],
    boxes: Mapping[str, Floats],
    fps: Mapping[str, float],
    failures: Iterable[Failure] = (),
) -> TrackerReport:
    """Score the results of one tracker. Results that cannot be scored join the failures."""
    report = TrackerReport(name, preset, {}, dict(fps), list(failures))
    for sequence, truth in truths.items():
        if sequence not in boxes:
            continue
        try:
            report.scores[sequence] = metrics.evaluate(preset, truth, boxes[sequence])
        except EsatError as error:
            report.failures.append(Failure(sequence, str(error)))
    return report


def truth_of(sequence: Sequence) -> Truth:
    """A sequence's ground truth for the metrics. SourceError if its first image cannot be read."""
    return Truth(sequence.name, sequence.boxes, sequence.image_size(), sequence.absent, sequence.covered)


def truths(sequences: Iterable[Sequence]) -> tuple[dict[str, Truth], list[Failure]]:
    """The ground truth of the sequences that have one, and those whose first image cannot be read."""
    found, failures = {}, []
    for sequence in sequences:
        if not sequence.scored:
            continue
        try:
            found[sequence.name] = truth_of(sequence)
        except EsatError as error:
            failures.append(Failure(sequence.name, str(error)))
    return found, failures


def to_json(report: TrackerReport) -> dict[str, Any]:
    """{"sequences": {name: figures}, "mean": figures, "failures": [...]}: percent, null where there is no figure."""
    sequences = {
        name: {**_figures(scores.values), "frames": scores.frames, "fps": _number(report.fps.get(name, math.nan))}
        for name, scores in report.scores.items()
    }
    mean: dict[str, Any] = _figures(report.mean)
    if report.scores:
        mean |= {"frames": sum(scores.frames for scores in report.scores.values()), "fps": _number(report.mean_fps)}
    return {"sequences": sequences, "mean": mean, "failures": [dataclasses.asdict(failure) for failure in report.failures]}


def mean_rows(reports: list[TrackerReport]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of trackers."""
    columns = COLUMNS[reports[0].preset]
    head = ["tracker", *columns, "sequences", "frames/s"]
    rows = [
        [
            report.name,
            *(_text(report.mean.get(column, math.nan)) for column in columns),
            str(len(report.scores)) + (f" ({len(report.failures)} failed)" if report.failures else ""),
            _text(report.mean_fps, 1),
        ]
        for report in reports
    ]
    return head, rows


def sequence_rows(reports: list[TrackerReport]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of sequences: all columns for one tracker, the first column of each for several."""
    columns = COLUMNS[reports[0].preset]
    names = list(dict.fromkeys(name for report in reports for name in report.scores))
    if len(reports) == 1:
        (report,) = reports
        head = ["sequence", *columns, "frames", "frames/s"]
        rows = [
            [
                name,
                *(_text(report.scores[name].values[column]) for column in columns),
                str(report.scores[name].frames),
                _text(report.fps.get(name, math.nan), 1),
            ]
            for name in names
        ]
        return head, rows
    head = ["sequence", *(f"{report.name} {columns[0]}" for report in reports)]
    rows = [
        [name, *(_text(report.scores[name].values[columns[0]]) if name in report.scores else "-" for report in reports)] for name in names
    ]
    return head, rows


def markdown(title: str, note: str, reports: list[TrackerReport]) -> str:
    """Both tables and the failures as Markdown."""
    parts = [f"# {title}\n", f"{note}\n", markdown_table(*mean_rows(reports)), markdown_table(*sequence_rows(reports))]
    failures = [f"- {report.name}, {failure.name}: {failure.reason}" for report in reports for failure in report.failures]
    if failures:
        parts.append("Failed:\n\n" + "\n".join(failures) + "\n")
    return "\n".join(parts)


def _figures(values: Mapping[str, float]) -> dict[str, float | None]:
    return {field: _number(value) for field, value in values.items()}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _text(value: float, digits: int = 2) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"
