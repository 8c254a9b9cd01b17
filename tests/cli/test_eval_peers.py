"""`esat eval` on the results of another tracker, against that tracker's own figures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from engine.cli.app import main
from tests.require import require


@pytest.mark.peers
def test_nanotrack_scores_as_its_own_harness_says(shared, tmp_path):
    harness = shared / "peers" / "nanotrack" / "nanotrack.py"
    require("peers", None if harness.is_file() else f"no {harness}")
    try:
        import ncnn  # noqa: F401
    except ImportError as error:
        require("peers", str(error))
    shutil.copytree(shared / "data" / "eval_dev" / "davis_car-shadow", tmp_path / "data" / "davis_car-shadow")
    boxes, output = tmp_path / "boxes", tmp_path / "o.json"
    command = [sys.executable, harness, tmp_path / "data", boxes]
    printed = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, timeout=300).stdout
    with pytest.raises(SystemExit) as caught:
        main(["eval", str(tmp_path / "data"), "--model", "none", "--compare", f"NanoTrack={boxes}", "--json", str(output)])
    assert not caught.value.code
    expected = json.loads(printed.splitlines()[0])
    found = json.loads(output.read_text())["trackers"]["NanoTrack"]["sequences"]["davis_car-shadow"]
    assert found["frames"] == expected["frames"] == 40
    assert abs(found["AUC"] - expected["AUC"]) <= 0.05 + 1e-9  # printed with one decimal
