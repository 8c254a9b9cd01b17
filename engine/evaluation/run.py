"""Evaluates a data set in one call: track, score, compare with other trackers."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engine.datasets.layouts import open_dataset
from engine.datasets.sequences import Dataset, Failure
from engine.datasets.text import Floats, look_like_corners
from engine.errors import ConfigError, EsatError
from engine.evaluation import metrics, pool, report
from engine.evaluation.metrics import Truth
from engine.evaluation.pool import Progress
from engine.evaluation.report import TrackerReport
from engine.evaluation.results import read_results
from engine.evaluation.tracking import Outcome, Settings

_CSV_HEAD = ("tracker", "sequence", "frames", *metrics.FIELDS, "fps", "failure")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found."""

    dataset: Dataset
    preset: str
    own: TrackerReport | None  # of the model that tracked; None if none did
    others: tuple[TrackerReport, ...]
    outcomes: Mapping[str, Outcome]  # the model's boxes, scores and times by sequence
    folder: Path | None  # where they are kept
    notes: tuple[str, ...]  # what a reader of the figures should know

    @property
    def reports(self) -> list[TrackerReport]:
        """All trackers, the model first."""
        return [*((self.own,) if self.own else ()), *self.others]

    @property
    def unscored(self) -> list[str]:
        """Sequences without public ground truth."""
        return [sequence.name for sequence in self.dataset.sequences if not sequence.scored]

    @property
    def failed(self) -> bool:
        """Whether a sequence is missing in the figures of any tracker."""
        return bool(self.dataset.broken) or any(entry.failures for entry in self.reports)

    @property
    def loop(self) -> str | None:
        """The loop that the model tracked with (`TrackerConfig.loop`)."""
        return next((outcome.loop for outcome in self.outcomes.values()), None)

    @property
    def title(self) -> str:
        return f"{self.dataset.root.resolve().name} ({self.dataset.layout}, {self.preset} preset)"

    def to_json(self) -> dict[str, Any]:
        """Figures of every tracker and sequence, percent; the model's own at the top, others under "trackers"."""
        run = next(iter(self.outcomes.values()), None)
        return {
            "model": run.model if run else None,
            "device": run.device if run else None,
            "dtype": run.dtype if run else None,
            "loop": run.loop if run else None,
            "preset": self.preset,
            "layout": self.dataset.layout,
            **(report.to_json(self.own) if self.own else {"sequences": {}, "mean": {}, "failures": []}),
            "unscored": self.unscored,
            "notes": list(self.notes),
            "trackers": {entry.name: report.to_json(entry) for entry in self.others},
        }

    def to_markdown(self) -> str:
        """Both tables, with what is to be known of them."""
        run = next(iter(self.outcomes.values()), None)
        how = [
            f"{run.model} on {run.device} in {run.dtype}, {run.loop} loop; frames/s are the tracker's own (crop, network, decode), "
            "without reading the images."
            for run in (run,)
            if run
        ]
        hidden = [f"{len(self.unscored)} sequences have no public ground truth."] if self.unscored else []
        noted = [f"{note[0].upper()}{note[1:]}." for note in self.notes]
        return report.markdown(
            self.title, " ".join([f"Figures in percent by the {self.preset} preset.", *how, *hidden, *noted]), self.reports
        )

    def to_csv(self) -> str:
        """A line for each tracker and sequence: figures in percent, frames a second, or why it failed."""
        text = io.StringIO()
        table = csv.DictWriter(text, _CSV_HEAD, lineterminator="\n")
        table.writeheader()
        for entry in self.reports:
            for name, scores in entry.scores.items():
                figures = {key: f"{value:.4f}" for key, value in scores.values.items() if not math.isnan(value)}
                speed = {"fps": f"{entry.fps[name]:.2f}"} if name in entry.fps else {}
                table.writerow({"tracker": entry.name, "sequence": name, "frames": scores.frames, **figures, **speed})
            for failure in entry.failures:
                table.writerow({"tracker": entry.name, "sequence": failure.name, "failure": failure.reason})
        return text.getvalue()


def evaluate(
    dataset: str | Path | Dataset,
    settings: Settings | None,
    preset: str = "otb",
    compare: Mapping[str, Path] | None = None,
    folder: Path | None = None,
    workers: int = 1,
    fresh: bool = False,
    ray: str | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Evaluation:
    """Track the sequences of a data set and score the boxes. An interrupted call, made again, goes on where it stopped.

    dataset: a folder, or what `open_dataset` made of one. settings: with what to track; None: score other trackers only.
    compare: name -> folder of another tracker's results (NAME.txt each). folder: where results are kept, by default
    out/eval/NAME-KEY. workers, ray: see `pool.run`.

    ConfigError, DatasetError, WeightsError, DeviceError, SinkError: nothing can be evaluated. A sequence that fails is in its tracker's failures.
    """
    if preset not in metrics.PRESETS:
        raise ConfigError(f"the preset must be one of {', '.join(metrics.PRESETS)}, got {preset!r}")
    if settings is None and not compare:
        raise ConfigError("nothing to score: give a model that tracks, or another tracker's results")
    dataset = dataset if isinstance(dataset, Dataset) else open_dataset(dataset)
    truths, unreadable = report.truths(dataset.sequences)
    outcomes: dict[str, Outcome] = {}
    own = None
    if settings is not None:
        folder = folder or Path("out") / "eval" / f"{dataset.root.resolve().name}-{settings.key()}"
        outcomes, failures = pool.run(list(dataset.sequences), settings, folder, workers, fresh, ray, on_progress)
        boxes = {name: outcome.boxes for name, outcome in outcomes.items()}
        fps = {name: outcome.fps for name, outcome in outcomes.items()}
        known = {failure.name for failure in failures}
        missed = [failure for failure in unreadable if failure.name not in known]
        own = report.score(settings.name, preset, truths, boxes, fps, [*dataset.broken, *failures, *missed])
    results = {name: _other_results(path, dataset, truths) for name, path in (compare or {}).items()}
    others = tuple(report.score(name, preset, truths, boxes, {}, failures) for name, (boxes, failures) in results.items())
    lengths = [note for name, (boxes, _) in results.items() for note in _lengths(name, boxes, truths)]
    notes = (*dataset.notes, *_notes(preset, truths), *lengths)
    return Evaluation(dataset, preset, own, others, outcomes, folder if settings else None, notes)


def _other_results(folder: Path, dataset: Dataset, truths: Mapping[str, Truth]) -> tuple[dict[str, Floats], list[Failure]]:
    """Another tracker's boxes by sequence, and what cannot be read."""
    boxes, failures = {}, []
    for sequence in dataset.sequences:
        if sequence.name not in truths:
            continue
        try:
            boxes[sequence.name] = read_results(folder, sequence)
        except EsatError as error:
            failures.append(Failure(sequence.name, str(error)))
    return boxes, failures


def _lengths(name: str, boxes: Mapping[str, Floats], truths: Mapping[str, Truth]) -> list[str]:
    """What to say of results of another length than the ground truth: presets count what is missing as misses, or not at all."""
    wrong = [key for key, found in boxes.items() if len(found) != len(truths[key].boxes)]
    if not wrong:
        return []
    first = f"{len(boxes[wrong[0]])} boxes for the {len(truths[wrong[0]].boxes)} frames of {wrong[0]}"
    return [f"{name}: {len(wrong)} results are not as long as their sequences, the first has {first}"]


def _notes(preset: str, truths: Mapping[str, Truth]) -> list[str]:
    """What is odd in the ground truth, one line each for the whole data set."""
    notes = []
    corners = [name for name, truth in truths.items() if truth.image_size and look_like_corners(truth.boxes, *truth.image_size)]
    if corners:
        notes.append(
            f"the boxes of {len(corners)} sequences look like corners x1,y1,x2,y2, the first is {corners[0]}: they were read as x,y,w,h"
        )
    disputed = [count for truth in truths.values() if (count := metrics.disputed_frames(truth))]
    if disputed and preset in ("otb", "lasot", "pytracking"):
        notes.append(
            f"{sum(disputed)} frames in {len(disputed)} sequences begin at x = 0 or y = 0 or beyond: they are "
            + (
                "misses here and count in the otb preset"
                if preset == "pytracking"
                else f"counted by {preset} and misses by pytracking's rule"
            )
        )
    return notes
