"""The comparison of modes: a mode equals itself, and a coarser one does not."""

import json

import cv2
import numpy as np
import pytest

from benchmarks.accuracy import main
from engine.errors import ConfigError


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


def test_rows(sequences, tiny_weights, tmp_path):
    main(sequences, str(tiny_weights), "cpu", "fp32,bf16", "fp32", str(tmp_path / "rows.json"))
    reference, same, coarse = (json.loads(line) for line in (tmp_path / "rows.json").read_text().splitlines())
    assert reference["mode"] == "fp32 (reference)"
    assert reference["frames"] == same["frames"] == 6
    assert reference["same_region_iou"] is None
    assert same["same_region_iou"] > 0.999
    assert same["kept_overlap"] == 1
    assert abs(same["AUC_difference"]) < 1e-9
    assert 0 <= coarse["same_region_iou"] < same["same_region_iou"]
    assert coarse["same_region_iou_p1"] <= coarse["same_region_iou"]
    assert 0.5 < coarse["kept_overlap"] <= 1  # random weights: many tokens are nearly equal


def test_unknown_modes_are_refused(sequences, tiny_weights):
    with pytest.raises(ConfigError, match="dtype must be auto, fp32, bf16, fp16, got 'int3'"):
        main(sequences, str(tiny_weights), "cpu", "int3", "fp32", None)
