"""A data set evaluated from Python."""

from __future__ import annotations

import numpy as np
import pytest

from engine.datasets.layouts import open_dataset
from engine.errors import ConfigError, DatasetError, WeightsError
from engine.evaluation import Settings, evaluate, metrics
from engine.evaluation.report import truth_of
from tests.engine.evaluation import trees


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return Settings(str(trees.tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")))


@pytest.fixture
def root(tmp_path):
    for number in range(2):
        trees.otb(tmp_path / "data", f"Square{number}", 4)
    return tmp_path / "data"


def test_figures_boxes_and_where_they_are_kept(root, settings, tmp_path):
    seen = []
    found = evaluate(root, settings, folder=tmp_path / "kept", on_progress=seen.append)
    assert (found.own.name, found.preset, found.failed, found.notes) == ("tiny", "otb", False, ())
    for sequence in open_dataset(root).sequences:
        boxes = found.outcomes[sequence.name].boxes
        assert np.allclose(np.loadtxt(tmp_path / "kept" / f"{sequence.name}.txt", delimiter=","), boxes, atol=1e-4)
        assert found.own.scores[sequence.name].values == metrics.evaluate("otb", truth_of(sequence), boxes).values
    assert found.own.mean["AUC"] == pytest.approx(np.mean([score.values["AUC"] for score in found.own.scores.values()]))
    assert [progress.finished for progress in seen if progress.finished] == ["Square0", "Square1"]
    again = evaluate(open_dataset(root), settings, "pytracking", folder=tmp_path / "kept", on_progress=seen.append)
    assert seen[-1].reused
    assert again.outcomes["Square1"].times_ms == found.outcomes["Square1"].times_ms


def test_other_trackers_alone_and_beside_ours(root, settings, tmp_path):
    for sequence in open_dataset(root).sequences:
        trees.write_boxes(tmp_path / "perfect" / f"{sequence.name}.txt", sequence.boxes)
    alone = evaluate(root, None, compare={"Perfect": tmp_path / "perfect"})
    assert (alone.own, alone.folder, alone.outcomes) == (None, None, {})
    (tmp_path / "perfect" / "Square1.txt").unlink()
    both = evaluate(root, settings, compare={"Perfect": tmp_path / "perfect"}, folder=tmp_path / "kept")
    assert [entry.name for entry in both.reports] == ["tiny", "Perfect"]
    assert both.failed
    assert [failure.name for failure in both.others[0].failures] == ["Square1"]


def test_what_cannot_be_evaluated(root, settings, tmp_path):
    with pytest.raises(ConfigError, match="one of otb, pytracking"):
        evaluate(root, settings, "mean")
    with pytest.raises(ConfigError, match="nothing to score"):
        evaluate(root, None)
    with pytest.raises(DatasetError, match="no such folder"):
        evaluate(tmp_path / "nowhere", settings)
    with pytest.raises(WeightsError):
        evaluate(root, Settings("missing.safetensors"))
