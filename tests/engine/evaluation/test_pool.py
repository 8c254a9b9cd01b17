"""Worker processes: one that dies costs its sequence, not the run."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

from engine.datasets.layouts import open_dataset
from engine.datasets.sequences import Sequence
from engine.evaluation import pool
from engine.evaluation.tracking import Settings
from tests.engine.evaluation import trees


@dataclasses.dataclass(frozen=True)
class Deadly(Sequence):
    """Kills its worker: always, or only as long as the file `until` is not there."""

    until: Path | None = None

    def frames(self):
        if self.until is None or not self.until.exists():
            if self.until is not None:
                self.until.touch()
            os.kill(os.getpid(), 9)
        yield from super().frames()


def test_dead_workers(tmp_path):
    for number in range(4):
        trees.otb(tmp_path / "data", f"Square{number}", 4)
    sequences = list(open_dataset(tmp_path / "data").sequences)
    for index, until in ((1, None), (2, tmp_path / "died once")):
        fields = {field.name: getattr(sequences[index], field.name) for field in dataclasses.fields(Sequence)}
        sequences[index] = Deadly(**fields, until=until)
    weights = trees.tiny_weights(tmp_path / "tiny.safetensors")
    seen: list[pool.Progress] = []
    outcomes, failures = pool.run(sequences, Settings(str(weights)), tmp_path / "kept", 2, on_progress=seen.append)
    assert list(outcomes) == ["Square0", "Square2", "Square3"]
    assert [(failure.name, "died twice" in failure.reason) for failure in failures] == [("Square1", True)]
    finished = {progress.finished: progress.result for progress in seen if progress.finished}
    assert set(finished) == {sequence.name for sequence in sequences}
    assert finished["Square0"] is outcomes["Square0"]
    assert finished["Square1"] == failures[0].reason
    assert max(progress.frames for progress in seen) >= 12


@dataclasses.dataclass(frozen=True)
class Killer(Sequence):
    """Kills its worker as soon as another one has begun."""

    begun: Path | None = None

    def frames(self):
        while not self.begun.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), 9)
        yield from super().frames()


@dataclasses.dataclass(frozen=True)
class Unlucky(Sequence):
    """Is lost with another one's worker, then kills its own once."""

    begun: Path | None = None
    died: Path | None = None

    def frames(self):
        if not self.begun.exists():
            self.begun.touch()
            time.sleep(100)
        if not self.died.exists():
            self.died.touch()
            os.kill(os.getpid(), 9)
        yield from super().frames()


def test_a_worker_that_another_one_took_along_does_not_count(tmp_path):
    for number in range(2):
        trees.otb(tmp_path / "data", f"Square{number}", 4)
    first, second = (
        {field.name: getattr(sequence, field.name) for field in dataclasses.fields(Sequence)}
        for sequence in open_dataset(tmp_path / "data").sequences
    )
    sequences = [Killer(**first, begun=tmp_path / "begun"), Unlucky(**second, begun=tmp_path / "begun", died=tmp_path / "died")]
    outcomes, failures = pool.run(sequences, Settings(str(trees.tiny_weights(tmp_path / "tiny.safetensors"))), tmp_path / "kept", 2)
    assert list(outcomes) == ["Square1"]
    assert [failure.name for failure in failures] == ["Square0"]
