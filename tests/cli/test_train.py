"""`esat train`: a whole small run, and bad input."""

import json

import pytest
import yaml

from engine.cli.app import main
from engine.weights.io import load_weights
from tests.engine.training.data import TINY, write_folder


def configuration(folder, **changes):
    values = {"model": TINY.to_dict() | {"elimination_layers": list(TINY.elimination_layers)}, "attention": "repulsion", "precision": "fp32",
              "steps": 2, "batch": 2, "warmup_steps": 1, "device": "cpu", "augment": {"groups": {"coco": 1.0}}}  # fmt: skip
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return str(path)


def run(arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return stop.value.code or 0


def test_a_run_writes_checkpoint_log_curves_and_weights_and_goes_on(tmp_path, capsys):
    data, folder, weights = write_folder(tmp_path / "data"), tmp_path / "run", tmp_path / "w.safetensors"
    arguments = ["train", configuration(tmp_path), "--data", str(data), "--run", str(folder), "--export", str(weights), "--threads", "1"]
    assert run(arguments) == 0
    assert run([*arguments, "--steps", "3"]) == 0
    assert "going on from step 2" in capsys.readouterr().err
    assert [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()] == [1, 2, 3]
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert load_weights(weights).metadata["steps"] == "3"


def test_missing_data_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert run(["train", configuration(tmp_path), "--data", str(tmp_path), "--run", str(tmp_path / "run")]) == 2
    message = capsys.readouterr().err
    assert "no training data in" in message
    assert "boxes.tsv" in message
    assert not (tmp_path / "run").exists()


def test_bad_configurations_are_exit_code_2(tmp_path, capsys):
    assert run(["train", str(tmp_path / "none.yaml")]) == 2
    assert run(["train", configuration(tmp_path, batch=0)]) == 2
    assert run(["train", configuration(tmp_path), "--validation", str(tmp_path)]) == 2
    assert "batch must be a positive integer" in capsys.readouterr().err
