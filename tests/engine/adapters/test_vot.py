"""A workspace of the VOT toolkit: it starts our tracker in a process of its own, scores it, and agrees with our own run and metrics."""

from __future__ import annotations

import configparser
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from engine import Tracker
from engine.adapters import vot
from engine.adapters.vot import VotTracker
from engine.errors import ConfigError, SourceError
from engine.evaluation.metrics import clip, iou
from tests.conftest import REPOSITORY
from tests.engine.evaluation import trees
from tests.require import require

STACK = """title: Test
experiments:
  baseline:
    type: unsupervised
    repetitions: 1
    multiobject: True
    analyses:
      - {type: average_accuracy, name: accuracy, burnin: 1}
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return trees.tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


def workspace(root: Path, truths: dict[str, dict[str, np.ndarray]]) -> Path:
    """Two sequences in the toolkit's own format, the stack, and the trackers.ini of the adapter's documentation."""
    (root / "config.yaml").write_text("registry: [./trackers.ini]\nstack: ./stack.yaml\nsequences: ./sequences\n")
    (root / "stack.yaml").write_text(STACK)
    ini = configparser.ConfigParser()
    ini.read_string("\n".join(line.strip() for line in vot.__doc__.split("\n\n")[1].splitlines()))
    assert ini["ESAT"]["command"] == "engine.adapters.vot:VotTracker"
    ini["ESAT"].update({"arg_device": "cpu", "arg_dtype": "fp32"})
    with open(root / "trackers.ini", "w") as file:
        ini.write(file)
    for name, boxes in truths.items():
        trees.write_images(root / "sequences" / name / "color", next(iter(boxes.values())))
        for target, rows in boxes.items():
            trees.write_boxes(root / "sequences" / name / f"groundtruth{target}.txt", rows)
        lines = ["channels.color=color/%08d.jpg", "format=default", "fps=30", f"length={len(rows)}", f"width={trees.WIDTH}"]
        (root / "sequences" / name / "sequence").write_text("\n".join([*lines, f"height={trees.HEIGHT}", "name=" + name]) + "\n")
    (root / "sequences" / "list.txt").write_text("\n".join(truths) + "\n")
    return root


def toolkit(root: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "VOT_RESULTS_BINARY": "false"}
    command = [sys.executable, "-m", "vot", "--registry", str(root / "trackers.ini"), *arguments, "--workspace", str(root)]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_workspace_of_the_toolkit(tmp_path):
    missing = [name for name in ("vot", "trax") if importlib.util.find_spec(name) is None]
    require("toolkits", f"not installed: {', '.join(missing)} (see requirements/toolkits.txt)" if missing else None)
    boxes = trees.moving_boxes(5)
    truths = {"single": {"": boxes}, "double": {"_a": boxes, "_b": boxes + np.array([0, 10, 0, 0])}}
    workspace(tmp_path, truths)
    toolkit(tmp_path, "evaluate", "ESAT")
    overlaps = []
    for name, targets in truths.items():
        images = [cv2.imread(str(path)) for path in sorted((tmp_path / "sequences" / name / "color").iterdir())]
        of_sequence = []
        for target, truth in targets.items():
            kept = tmp_path / "results" / "ESAT" / "baseline" / name / f"{name}{target}_001.txt"
            first, *others = kept.read_text().splitlines()
            assert first == "1"  # the toolkit's mark of an initialisation
            found = np.array([[float(value) for value in line.split(",")] for line in others])
            tracker = Tracker(device="cpu", dtype="fp32")
            tracker.init(images[0], truth[0])
            assert np.allclose(found, [tracker.update(image).box for image in images[1:]], atol=0.01)
            confidence = kept.with_name(f"{name}{target}_001_confidence.value").read_text().splitlines()
            assert all(0 < float(value) <= 1 for value in confidence[1:])
            of_sequence.append(iou(clip(found, (trees.WIDTH, trees.HEIGHT)), truth[1:]).mean())
        overlaps.append(np.mean(of_sequence))
    toolkit(tmp_path, "analysis", "ESAT", "--format", "json", "--name", "report")
    report = json.loads((tmp_path / "analysis" / "report.json").read_text())
    (((accuracy,),),) = report["results"]["baseline"]["results"]
    assert accuracy > 0.2
    assert accuracy == pytest.approx(np.mean(overlaps), abs=0.05)  # the toolkit counts whole pixels


def test_the_calls(tmp_path, weights):
    boxes = trees.moving_boxes(3)
    trees.write_images(tmp_path, boxes)
    first, second, third = map(str, sorted(tmp_path.iterdir()))
    tracker = VotTracker(str(weights), "cpu", "fp32")
    start = tuple(boxes[0].tolist())
    assert tracker.init(first, [(start, {})]) == [(start, {})]
    found = tracker.update(second, [((30.0, 20.0, 9.0, 9.0), {})])
    assert len(found) == 2
    assert found[1] == ((30.0, 20.0, 9.0, 9.0), {})
    assert [0 <= float(properties["confidence"]) <= 1 for _, properties in tracker.update(third, [])] == [True, True]
    assert tracker.init(first, [(start, {})]) == [(start, {})]
    assert tracker.update(second, [])[0] == found[0]  # nothing is left of the earlier run


@pytest.mark.parametrize(
    ("frame", "region", "error", "words"),
    [
        ("{image}", [(1.0, 2.0), (3.0, 4.0), (5.0, 6.0)], ConfigError, "got a list: set `convert = rectangle`"),
        ("{image}", np.ones((4, 4)), ConfigError, "got a ndarray"),
        ("/nowhere.jpg", (1.0, 2.0, 3.0, 4.0), SourceError, "cannot read /nowhere.jpg"),
        ({"color": "a", "depth": "b"}, (1.0, 2.0, 3.0, 4.0), ConfigError, "got the channels color, depth"),
    ],
)
def test_bad_calls(tmp_path, weights, frame, region, error, words):
    trees.write_images(tmp_path, trees.moving_boxes(1))
    frame = frame.format(image=tmp_path / "00000001.jpg") if isinstance(frame, str) else frame
    with pytest.raises(error, match=words.replace("(", "\\(")):
        VotTracker(str(weights), "cpu", "fp32").init(frame, [(region, {})])
