"""Result archives as the evaluation servers take them, checked before and after they are written."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from engine.datasets.sequences import Dataset
from engine.errors import DatasetError
from engine.evaluation.tracking import Outcome
from engine.files import PendingFile


def write_submission(path: Path, dataset: Dataset, outcomes: Mapping[str, Outcome]) -> int:
    """Write a zip for the data set's server and return the number of sequences in it.

    got10k: SEQ/SEQ_001.txt and SEQ/SEQ_time.txt (seconds a frame); all other layouts: SEQ.txt side by side. Boxes are x,y,w,h with
    decimals. DatasetError, before anything is written, if a sequence is broken, missing, of the wrong length or not finite; SinkError.
    """
    problems = [f"{entry.name}: {entry.reason}" for entry in dataset.broken]
    problems += [problem for sequence in dataset.sequences for problem in _problems(sequence.name, sequence.frame_count, outcomes)]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise DatasetError(f"no submission is written, {len(problems)} sequences are not ready: {'; '.join(problems[:3])}{more}")
    with PendingFile(path) as pending:
        with zipfile.ZipFile(pending.partial, "w", zipfile.ZIP_DEFLATED) as archive:
            for sequence in dataset.sequences:
                for name, text in _files(dataset.layout, outcomes[sequence.name]):
                    archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text, zipfile.ZIP_DEFLATED)  # same bytes every time
        lengths = {sequence.name: len(outcomes[sequence.name].boxes) for sequence in dataset.sequences}
        validate_submission(pending.partial, dataset.layout, lengths)
    return len(dataset.sequences)


def validate_submission(path: Path, layout: str, lengths: Mapping[str, int]) -> None:
    """Read an archive back: exactly the files that belong there, one box (and time) a frame, finite, with sizes above 0. DatasetError."""
    try:
        with zipfile.ZipFile(path) as archive:
            contents = {name: archive.read(name).decode() for name in archive.namelist()}
    except (zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: not a readable archive: {error}") from error
    expected = {file: (name, columns) for name in lengths for file, columns in _names(layout, name).items()}
    missing, unknown = sorted(set(expected) - set(contents)), sorted(set(contents) - set(expected))
    if missing or unknown:
        raise DatasetError(f"{path}: {len(missing)} files are missing {missing[:3]}, {len(unknown)} do not belong there {unknown[:3]}")
    for file, (name, columns) in expected.items():
        try:
            values = np.array([[float(field) for field in line.split(",")] for line in contents[file].splitlines()])
        except ValueError as error:
            raise DatasetError(f"{path}: {file}: {error}") from error
        if values.shape != (lengths[name], columns):
            raise DatasetError(f"{path}: {file}: expected {lengths[name]} lines of {columns} numbers, got {values.shape}")
        if not np.isfinite(values).all() or (columns == 4 and (values[:, 2:] <= 0).any()):
            raise DatasetError(f"{path}: {file}: holds values that are not finite, or boxes without area")


def _problems(name: str, frames: int | None, outcomes: Mapping[str, Outcome]) -> list[str]:
    if name not in outcomes:
        return [f"{name}: no result"]
    boxes = outcomes[name].boxes
    if frames is not None and len(boxes) != frames:
        return [f"{name}: {len(boxes)} boxes for {frames} frames"]
    if not np.isfinite(boxes).all():
        return [f"{name}: boxes that are not finite"]
    return []


def _names(layout: str, name: str) -> dict[str, int]:
    """File -> numbers a line."""
    return {f"{name}/{name}_001.txt": 4, f"{name}/{name}_time.txt": 1} if layout == "got10k" else {f"{name}.txt": 4}


def _files(layout: str, outcome: Outcome) -> list[tuple[str, str]]:
    boxes = "".join(",".join(f"{value:.4f}" for value in box) + "\n" for box in outcome.boxes)
    times = "".join(f"{milliseconds / 1e3:.8f}\n" for milliseconds in outcome.times_ms)
    return list(zip(_names(layout, outcome.name), (boxes, times), strict=False))
