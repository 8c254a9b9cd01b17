"""The comparison of modes: a mode equals itself, a coarser one does not, and the shipped weights keep their boxes in bf16."""

import json
import shutil

import cv2
import numpy as np
import pytest

from benchmarks.accuracy import main
from conformance.golden import draw_weights
from engine.cli.exits import run_function
from engine.config import ModelConfig
from engine.errors import ConfigError
from engine.runners.choice import cpu_engine_unsupported
from engine.weights import save_weights
from engine.weights.shipped import find_weights


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    root = tmp_path_factory.mktemp("sequences")
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        (root / name / "img").mkdir(parents=True)
        for index in range(1, 5):
            cv2.imwrite(str(root / name / "img" / f"{index:04d}.png"), rng.integers(0, 256, (90, 120, 3), np.uint8))
        (root / name / "groundtruth.txt").write_text("40,30,20,20\n" * 4)
    return root


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        run_function(main, list(map(str, arguments)))
    return caught.value.code or 0


def test_rows(sequences, tiny_weights, tmp_path):
    kept, output = tmp_path / "kept", tmp_path / "rows.json"
    assert run(sequences, "--model", tiny_weights, "--modes", "fp32,bf16", "--frames", 3, "--json", output, "--store", kept) == 0
    reference, same, coarse, pair = (json.loads(line) for line in output.read_text().splitlines())
    assert [(row["mode"], row["against"]) for row in (reference, same, coarse, pair)] == [
        ("fp32 (reference)", None),
        ("fp32", "fp32 (reference)"),
        ("bf16", "fp32 (reference)"),
        ("bf16", "fp32"),
    ]
    assert reference["frames"] == same["frames"] == 4  # the first of the three frames is given
    assert reference["same_region_iou"] is None
    assert same["same_region_iou"] > 0.999
    assert same["kept_overlap"] == 1
    assert abs(same["AUC_difference"]) < 1e-9
    assert 0 <= coarse["same_region_iou"] < same["same_region_iou"]
    assert coarse["same_region_iou_p1"] <= coarse["same_region_iou"]
    assert pair["same_region_iou"] == pytest.approx(coarse["same_region_iou"], abs=0.01)
    stored = json.loads((kept / "accuracy-tiny-3frames.json").read_text())
    assert [row["AUC"] for row in stored["rows"]] == [row["AUC"] for row in (reference, same, coarse, pair)]
    assert stored["about"]["frames_a_sequence"] == 3
    assert cv2.imread(str(kept / "accuracy-tiny-3frames.png")).shape[1] > 1000
    assert "| bf16 | fp32 (reference) |" in (kept / "accuracy-tiny-3frames.md").read_text()


def test_bf16_keeps_the_shipped_weights_boxes_and_tokens(shared, tmp_path):
    for name in ("davis_car-shadow", "uav_wakeboard7"):
        shutil.copytree(shared / "data" / "eval_dev" / name, tmp_path / "data" / name)
    output = tmp_path / "rows.json"
    frames = 16 if cpu_engine_unsupported(find_weights("esat-s-256").config, "bf16") is None else 4  # PyTorch's bf16 is slow without it
    assert run(tmp_path / "data", "--modes", "bf16", "--frames", frames, "--json", output) == 0
    _, coarse = (json.loads(line) for line in output.read_text().splitlines())
    assert coarse["frames"] == 2 * (frames - 1)
    assert coarse["same_region_iou"] > 0.97
    assert coarse["kept_overlap"] > 0.97


def test_unknown_modes_are_refused(sequences, tiny_weights):
    with pytest.raises(ConfigError, match="dtype must be auto, fp32, bf16, fp16, int8, fp8, got 'int3'"):
        main(sequences, str(tiny_weights), "cpu", "int3", "fp32")


def test_fp8_on_a_cpu_is_emulated_and_says_so(sequences, tmp_path):
    wide = tmp_path / "wide.safetensors"
    sizes = {"head_channels": 16, "template_size": 32, "search_size": 64, "search_factor": 4.0}
    config = ModelConfig(name="wide", dim=128, heads=2, depth=4, elimination_layers=(), **sizes)
    weights = draw_weights(config, 3, 2.0, wide)
    save_weights(wide, weights.state_dict, config, {"source": "random parameters of the test suite"})
    output = tmp_path / "rows.json"
    assert run(sequences, "--model", wide, "--modes", "fp8", "--frames", 2, "--json", output) == 0
    _, eight = (json.loads(line) for line in output.read_text().splitlines())
    assert eight["mode"] == "fp8 (emulated)"
    assert 0 <= eight["same_region_iou"] < 0.99999  # not float32 under another name
