"""The toolkit's own experiment with our tracker, and its figures beside ours."""

from __future__ import annotations

import json

import numpy as np
import pytest

from engine.adapters.got10k import got10k_tracker
from engine.cli.app import main
from tests.engine.evaluation import trees
from tests.require import require


@pytest.fixture
def toolkit():
    try:
        import got10k.experiments
    except ImportError as error:
        require("toolkits", str(error))
    return got10k.experiments


def test_the_toolkits_experiment(tmp_path, toolkit, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "data"
    for number, cover in ((1, (8, 8, 0, 3, 8)), (2, (8, 1, 1, 1, 0))):
        folder = trees.got10k(root, "val", number, cover=cover)
        (folder / "meta_info.ini").write_text(f"[METAINFO]\nresolution: ({trees.WIDTH}, {trees.HEIGHT})\n")
        (folder / "cut_by_image.label").write_text("0\n" * 5)
    weights = trees.tiny_weights(tmp_path / "tiny.safetensors")
    experiment = toolkit.ExperimentGOT10k(str(root), subset="val", result_dir="results", report_dir="reports")
    experiment.run(got10k_tracker("ESAT", weights, device="cpu", dtype="fp32"))
    theirs = experiment.report(["ESAT"])["ESAT"]["overall"]
    with pytest.raises(SystemExit):
        main(["eval", str(root), "--preset", "got10k", "--model", str(weights), "--dtype", "fp32", "--results", "kept", "--json", "o.json"])
    ours = json.loads((tmp_path / "o.json").read_text())["mean"]
    for number in (1, 2):
        name = f"GOT-10k_Val_{number:06d}"
        boxes = np.loadtxt(tmp_path / "results" / "GOT-10k" / "ESAT" / name / f"{name}_001.txt", delimiter=",")
        assert np.allclose(boxes, np.loadtxt(tmp_path / "kept" / f"{name}.txt", delimiter=","), atol=2e-3)
    assert ours["AO"] == pytest.approx(100 * theirs["ao"], abs=0.05)  # the toolkit keeps three decimals of the boxes
    assert ours["SR_0.5"] == pytest.approx(100 * theirs["sr"], abs=1e-6)


def test_the_experiment_reads_other_trackers_as_we_do(tmp_path, toolkit):
    rng = np.random.default_rng(1)
    from got10k.utils.metrics import rect_iou

    from engine.evaluation import metrics

    truth, predictions = (np.hstack([rng.uniform(-20, 90, (200, 2)), rng.uniform(1, 60, (200, 2))]) for _ in range(2))
    ours = metrics.iou(metrics.clip(predictions, (96, 64)), metrics.clip(truth, (96, 64)))
    assert np.allclose(ours, rect_iou(predictions.copy(), truth.copy(), bound=(96, 64)), atol=1e-9)
