"""The small-scale ablations: their rows, their runs, what is said of them."""

import json

import cv2
import pytest
import torch

from benchmarks import ablation
from benchmarks.ablation import ablate, apply, finished, rows
from benchmarks.ablation_report import Run, Variant, report, summarise, write_report
from engine.training.pairs import PairMaker
from tests.engine.training.data import small_pool
from tests.engine.training.test_trainer import settings


def test_rows_are_the_papers():
    config = settings()
    assert list(rows(2)) == ["base", "FDA", "PN", "PN + FDA", "ABS", "ABS + FDA", "ABS + PN", "ABS + PN + FDA"]
    base, full = (apply(rows(2)[name], config) for name in ("base", "ABS + PN + FDA"))
    assert (base.model.alpha, base.model.beta, base.losses.position) == (0, 0, False)
    assert (full.losses.absolute, full.losses.positive, full.model.alpha, full.model.beta) == (0.01, 0.1, 0.1, 0.1)
    assert len(rows(3)) == 11
    assert [variant.force for variant in rows(4).values()] == [0.1, 1.0, 0.01]


def test_every_variant_is_trained_once(tmp_path):
    config, pool = settings(steps=1), small_pool()
    held_out = PairMaker(pool, config.model, config.augment, 7)
    first = ablate(config, pool, held_out, [4], [0, 1], tmp_path, batches=1)
    assert [run.seed for run in first] == [0, 0, 0, 1, 1, 1]
    assert all(0 <= run.iou <= 1 for run in first)
    stamp = (tmp_path / "runs.jsonl").read_text()
    assert ablate(config, pool, held_out, [4], [0, 1], tmp_path, batches=1) == first == finished(tmp_path)
    assert (tmp_path / "runs.jsonl").read_text() == stamp
    assert [path.name for path in tmp_path.iterdir()] == ["runs.jsonl"]


def test_runs_of_other_settings_are_not_taken(tmp_path, monkeypatch):
    """`ablate` is told a folder of the configuration's own."""
    monkeypatch.setattr(ablation, "read_data", lambda config: small_pool())
    monkeypatch.setattr(ablation, "held_out_pairs", lambda folder, config: None)
    monkeypatch.setattr(ablation, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(ablation, "rows", lambda table: {"base": Variant(0, 0, 0)})
    trained = []

    def train(variant, seed, config, *rest):
        trained.append(config.backbone_lr)
        return Run(variant, seed, config.steps, config.backbone_lr, 0.5)

    monkeypatch.setattr(ablation, "_train", train)

    def run(*more, **changes):
        monkeypatch.setattr(ablation, "read_config", lambda path, **given: settings(**changes))
        folders = ["--out", tmp_path / "out", "--report", tmp_path / "report"]
        options = ["tiny.yaml", "--tables", 2, "--seeds", 0, 1, "--threads", torch.get_num_threads(), *folders]
        ablation.main(list(map(str, (*options, *more))))
        return [run["iou"] for run in json.loads((tmp_path / "report" / "ablation.json").read_text())["runs"]]

    assert run(backbone_lr=0.25) == [0.25, 0.25]
    assert run(backbone_lr=0.5) == [0.5, 0.5]
    assert run("--finished", backbone_lr=0.25, loader_threads=2) == [0.25, 0.25]
    assert len(trained) == 4
    for other in ({"batch": 8}, {"init": "other.whl"}, {"data": "other"}):
        assert run("--finished", backbone_lr=0.25, **other) == []
    assert run("--held-out", tmp_path, backbone_lr=0.25) == [0.25, 0.25]
    assert len(trained) == 6


BASE, SURE, UNSURE, MISSING = (Variant(0, 0, force) for force in (0.0, 0.1, 0.2, 0.3))
TABLES = {2: {"base": BASE, "sure": SURE, "unsure": UNSURE, "missing": MISSING}}
RUNS = [
    Run(variant, seed, 8, iou, 0.5)
    for variant, values in ((BASE, (0.30, 0.34, 0.32)), (SURE, (0.40, 0.44, 0.43)), (UNSURE, (0.40, 0.30, 0.35)))
    for seed, iou in enumerate(values)
]


def test_differences_are_taken_seed_by_seed():
    base, sure, unsure, missing = summarise(RUNS, TABLES)
    assert (base.iou, base.spread, base.gain) == (pytest.approx(0.32), pytest.approx(0.02), None)
    assert sure.gain == pytest.approx((0.10 + 0.10 + 0.11) / 3)
    assert sure.gain_95 == pytest.approx(4.303 * 0.0057735 / 3**0.5, rel=1e-4)
    assert sure.significant
    assert not unsure.significant
    assert (missing.seeds, missing.iou, missing.significant) == (0, None, False)


def test_the_report_says_what_the_runs_allow(tmp_path):
    text = report(RUNS, TABLES, settings())
    assert "| sure | 0.423 | 0.021 | +0.103 +- 0.014 | 3 |" in text
    assert "Outside of their interval: sure (+0.103)" in text
    quiet = report([run for run in RUNS if run.variant != SURE], TABLES, settings())
    assert "No row differs" in quiet
    assert "Too few runs" in report(RUNS[:1], TABLES, settings())
    write_report(RUNS, TABLES, settings(), tmp_path)
    content = json.loads((tmp_path / "ablation.json").read_text())
    assert [Run.read(record) for record in content["runs"]] == RUNS
    assert cv2.imread(str(tmp_path / "ablation.png")).std() > 0
