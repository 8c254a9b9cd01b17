"""The parity command: right files pass, changed ones fail, unusable ones are named."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import parity
from conformance import golden
from engine.cli.exits import run_function

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture
def run(capsys):
    """Exit code and rows of a call."""

    def call(*arguments: object) -> tuple[int, list[dict]]:
        with pytest.raises(SystemExit) as caught:
            run_function(parity.main, [*map(str, arguments), "--json", "-"])
        return caught.value.code or 0, [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return call


@pytest.mark.parametrize("name", ["backbone.blocks.0.attn.qkv.weight", "backbone.norm.weight", "box_head.conv1_ctr.1.running_var",
                                  "box_head.conv1_ctr.1.running_mean", "box_head.conv5_size.weight", "backbone.pos_embed_z",
                                  "box_head.conv1_ctr.0.bias", "box_head.conv1_ctr.1.num_batches_tracked"])  # fmt: skip
def test_weights_are_drawn_by_the_files_rule(shared, name):
    spec = importlib.util.spec_from_file_location("draw_weights", shared / "oracle" / "draw_weights.py")
    rule = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rule)
    shape = (
        (1, 6, 8) if "pos" in name else () if "tracked" in name else (12, 8) if name.endswith("weight") and "norm" not in name else (12,)
    )
    assert np.array_equal(golden.draw(name, shape, 5, 1.6), rule.draw(name, shape, 5, 1.6))
    for ours, theirs in zip(golden.draw_images(32, 64, 5), rule.inputs(32, 64, 5), strict=True):
        assert np.array_equal(ours.numpy(), theirs)


def test_golden_files_agree(run):
    code, rows = run(*sorted(GOLDEN.glob("*.npz")), GOLDEN / "metrics.json")
    assert code == 0
    assert {row["kind"] for row in rows} == {"forward", "attention", "metrics"}
    for row in rows:
        assert row["ok"]
        assert row["max_abs_error"] < {"forward": 1e-5, "attention": 3e-5, "metrics": 1e-4}[row["kind"]]
        assert row["removed_equal"] is (True if row["kind"] == "forward" else None)
        if row["kind"] == "attention":
            assert row["details"]["max_abs_error_fp64"] < 1e-10


def test_files_that_need_real_frames_agree(run, shared):
    code, rows = run(*sorted((shared / "oracle").glob("loop_*.npz")), *sorted((shared / "oracle").glob("crops_*.npz")))
    assert code == 0
    assert [row["kind"] for row in rows] == ["loop", "crops"]


def test_half_precision_has_its_budget(run):
    code, rows = run(GOLDEN / "small_fda.npz", GOLDEN / "attention_paper_d64.npz", "--dtype", "bf16")
    assert code == 0
    assert rows[0]["details"]["removed_overlap"] > 0.95
    assert rows[1]["max_abs_error"] > 1e-4  # it did run in bf16


def changed(tmp_path: Path, name: str, **arrays: np.ndarray) -> Path:
    with np.load(GOLDEN / name) as original:
        content = {key: original[key] for key in original.files} | arrays
    np.savez(tmp_path / name, **content)
    return tmp_path / name


def test_a_file_that_disagrees_fails(run, tmp_path):
    with np.load(GOLDEN / "small_fda.npz") as original:
        score = original["score_map"].copy()
        removed = original["removed_1"].copy()
    score[0, 0, 3, 3] += 1e-4
    code, rows = run(changed(tmp_path, "small_fda.npz", score_map=score))
    assert (code, rows[0]["ok"], rows[0]["removed_equal"]) == (1, False, True)
    assert rows[0]["max_abs_error"] == pytest.approx(1e-4, rel=0.1)
    removed[0, 0] = next(i for i in range(256) if i not in removed)
    code, rows = run(changed(tmp_path, "small_fda.npz", removed_1=removed))
    assert (code, rows[0]["ok"], rows[0]["removed_equal"]) == (1, False, False)
    with np.load(GOLDEN / "attention_paper_d64.npz") as original:
        gradient = original["dk"] + 1e-4
    code, rows = run(changed(tmp_path, "attention_paper_d64.npz", dk=gradient))
    assert (code, rows[0]["ok"]) == (1, False)


@pytest.mark.parametrize(
    ("path", "change"),
    [
        (("sequences", "otb_Crossing", "AUC"), 2e-4),
        (("sequences", "davis_dog", "AO"), 2e-6),
        (("sequences", "davis_dog", "AUC"), 2e-4),
        (("pytracking_preset", "sequences", "davis_dog", "AUC"), 2e-4),
        (("pytracking_preset", "P"), 2e-4),
        (("OTB_preset", "P"), 2e-4),
        (("GOT10K_preset", "SR_0.5"), 2e-6),
        (("LaSOT_preset_absent", "P_norm"), 2e-4),
    ],
)
def test_changed_metrics_fail(run, tmp_path, path, change):
    content = json.loads((GOLDEN / "metrics.json").read_text())
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] += change
    file = tmp_path / "metrics.json"
    file.write_text(json.dumps(content))
    code, rows = run(file)
    assert (code, rows[0]["ok"]) == (1, False)


def test_unusable_files_and_options(run, tmp_path):
    text = tmp_path / "text.npz"
    text.write_text("not a zip")
    cut = tmp_path / "cut.npz"
    cut.write_bytes((GOLDEN / "small_fda.npz").read_bytes()[:3000])
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, kind=np.array({"a": 1}, dtype=object))
    unknown = tmp_path / "unknown.npz"
    np.savez(unknown, kind="other")
    half = tmp_path / "half.npz"
    np.savez(half, kind="forward")
    nowhere = tmp_path / "nowhere.npz"
    np.savez(nowhere, kind="crops", frame="no.jpg", boxes=np.zeros((1, 4)))
    shutil.copy(GOLDEN / "metrics.json", tmp_path / "ok.json")
    files = [text, cut, pickled, unknown, half, nowhere, tmp_path / "missing.npz"]
    code, rows = run(*files, tmp_path / "ok.json")
    assert code == 2
    assert [row["ok"] for row in rows] == [False] * len(files) + [True]
    assert all(row["error"] for row in rows[:-1])
    assert run(GOLDEN / "metrics.json", "--backend", "nonsense")[0] == 2
    assert run(GOLDEN / "metrics.json", "--dtype", "int4")[0] == 2
    if not torch.cuda.is_available():
        assert run(GOLDEN / "metrics.json", "--device", "cuda")[0] == 2
        assert run(GOLDEN / "attention_paper_d64.npz", "--backend", "triton")[0] == 2


def test_every_figure_of_the_metrics_is_compared(run):
    """AUC, P, P_norm by two rules and AO for ten sequences, three means each, three pooled figures, three with absent frames."""
    _, rows = run(GOLDEN / "metrics.json")
    assert rows[0]["details"]["figures"] == 10 * 7 + 6 + 3 + 3
