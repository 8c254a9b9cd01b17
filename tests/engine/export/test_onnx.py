"""The exported file says what PyTorch says, in ONNX Runtime and OpenVINO."""

import dataclasses
import importlib.util
import json

import cv2
import numpy as np
import pytest
import torch

from engine.cli.app import main
from engine.errors import ConfigError
from engine.export.check import TIE, Agreement, check, smallest_gap
from engine.export.onnx import export_onnx
from engine.video import open_source
from engine.weights import load_weights
from tests.require import require

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def _peers():
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime", "openvino") if importlib.util.find_spec(name) is None]
    require("peers", f"not installed: {', '.join(missing)}" if missing else None)


@pytest.fixture
def clip(tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(4):
        cv2.imwrite(str(folder / f"{index}.png"), rng.integers(0, 256, (90, 120, 3), np.uint8))
    return folder


@pytest.mark.usefixtures("_peers")
def test_both_runtimes_agree_with_pytorch(tiny_weights, clip, tmp_path, capsys):
    target = tmp_path / "tiny.onnx"
    arguments = ["export", "--onnx", str(target), "--model", str(tiny_weights), "--check", str(clip), "--box", "40,30,20,20"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--runtimes", "onnxruntime,openvino"])
    shown = capsys.readouterr()
    assert ended.value.code == 0, shown
    steps = ["exporting", "checking with onnxruntime", "checking with openvino"]  # a line each on standard error, which is no terminal here
    assert [line for step in steps for line in shown.err.splitlines() if line.startswith(step)] == [
        line for line in shown.err.splitlines() if line.startswith(("exporting", "checking"))
    ]
    assert all(step in shown.err for step in steps)
    reports = json.loads((tmp_path / "tiny.check.json").read_text())
    assert [(report["runtime"], report["frames"], report["same_tokens"] + report["ties"], report["ok"]) for report in reports] == [
        ("onnxruntime", 3, 3, True),
        ("openvino", 3, 3, True),
    ]
    import onnx

    metadata = {entry.key: entry.value for entry in onnx.load(target).metadata_props}
    assert json.loads(metadata["esat_config"])["dim"] == 96
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip", "tiny.check.json", "tiny.onnx"]


@pytest.mark.usefixtures("_peers")
def test_a_model_that_keeps_every_token(tiny_weights, clip, tmp_path):
    weights = load_weights(tiny_weights)
    weights = dataclasses.replace(weights, config=weights.config.replace(keep_ratio=1.0))
    export_onnx(weights, tmp_path / "all.onnx")
    with open_source(clip) as source:
        agreement = check(tmp_path / "all.onnx", weights, (frame.image for frame in source), (40.0, 30.0, 20.0, 20.0), "onnxruntime")
    assert (agreement.frames, agreement.same_tokens, agreement.ok) == (3, 3, True)


@pytest.mark.usefixtures("_peers")
def test_a_clip_of_one_frame_checks_nothing(tiny_weights, clip, tmp_path, capsys):
    for index in (1, 2, 3):
        (clip / f"{index}.png").unlink()
    with pytest.raises(SystemExit) as ended:
        main(["export", "--onnx", str(tmp_path / "a.onnx"), "--model", str(tiny_weights), "--check", str(clip), "--box", "40,30,20,20"])
    assert ended.value.code == 2
    assert "checked on two frames or more" in capsys.readouterr().err


def test_a_tie_is_a_gap_within_rounding():
    scores = torch.tensor([[0.5, 0.3, 0.300001, 0.1]])
    assert smallest_gap([scores], [2]) < TIE
    assert smallest_gap([scores], [1]) == pytest.approx(0.4, abs=1e-4)
    assert smallest_gap([scores, scores], [3, 2]) < TIE


def test_disagreement_is_not_ok():
    assert Agreement("onnxruntime", "1", 3, 3, 0, 1e-6, 1e-3).ok
    assert not Agreement("onnxruntime", "1", 3, 2, 0, 1e-6, 1e-3).ok
    assert not Agreement("onnxruntime", "1", 3, 3, 0, 1e-2, 1e-3).ok
    assert Agreement("onnxruntime", "1", 3, 2, 1, 1e-6, 1e-3).ok
    assert not Agreement("onnxruntime", "1", 3, 0, 3).ok
    assert not Agreement("onnxruntime", "1").ok


@pytest.mark.usefixtures("_peers")
def test_models_without_elimination_are_refused(tiny_weights, tmp_path):
    weights = load_weights(tiny_weights)
    object.__setattr__(weights, "config", weights.config.replace(elimination_layers=()))
    with pytest.raises(ConfigError, match="with candidate elimination"):
        export_onnx(weights, tmp_path / "a.onnx")
