"""`esat train`: a whole small run, and bad input."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from engine.cli.app import main
from engine.training.checkpoint import only_run_in
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
    shown = capsys.readouterr().err
    assert "going on from step 2" in shown
    assert re.search(r"^step 1 of 2: loss [0-9.]+  IoU [0-9.]+  [0-9.]+ s a step$", shown, re.MULTILINE)  # no terminal here: the first, and
    assert re.search(r"^step 2 of 2: loss ", shown, re.MULTILINE)  # the last at once
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


# Ctrl-C in the third step: never before the command listens, never after it has ended. In a process of its own, which a signal may end.
PRESSED = """
import signal, sys
from engine.cli.app import main
from engine.training.trainer import Trainer
before, train_step, steps = signal.getsignal(signal.SIGINT), Trainer.train_step, []
def pressed(self, batch):
    steps.append(1)
    if len(steps) == 3:
        signal.raise_signal(signal.SIGINT)
    return train_step(self, batch)
Trainer.train_step = pressed
try:
    main(sys.argv[1:])
finally:
    assert signal.getsignal(signal.SIGINT) == before
"""


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path):
    data = write_folder(tmp_path / "data")
    common = ["train", configuration(tmp_path, steps=20), "--data", str(data), "--threads", "1"]
    assert run([*common, "--run", str(tmp_path / "whole"), "--export", str(tmp_path / "whole.safetensors")]) == 0
    log = tmp_path / "parts" / "log.jsonl"
    pressed = subprocess.run([sys.executable, "-c", PRESSED, *common, "--run", str(log.parent)], check=False, timeout=300)
    assert pressed.returncode == 130
    assert len(log.read_text().splitlines()) == 3
    assert run([*common, "--run", str(log.parent), "--export", str(tmp_path / "parts.safetensors")]) == 0
    one, two = (load_weights(tmp_path / f"{name}.safetensors").state_dict for name in ("whole", "parts"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_second_run_in_a_folder_is_refused_while_the_first_one_works(tmp_path, capsys):
    data, folder = write_folder(tmp_path / "data"), tmp_path / "run"
    arguments = ["train", configuration(tmp_path), "--data", str(data), "--run", str(folder), "--threads", "1"]
    assert run([*arguments, "--steps", "1"]) == 0
    before = {name: (folder / name).read_bytes() for name in ("log.jsonl", "checkpoint.pt")}
    with only_run_in(folder):
        assert run(arguments) == 2
    assert f"{folder}: another training run is at work in this folder" in capsys.readouterr().err
    assert before == {name: (folder / name).read_bytes() for name in before}
    hold = (
        f"import pathlib, time; from engine.training.checkpoint import only_run_in\n"
        f"with only_run_in(pathlib.Path({str(folder)!r})): print(1, flush=True); time.sleep(300)"
    )
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"1\n"
        refused = run(arguments)
        other.kill()  # a killed run leaves no lock behind
    assert refused == 2
    assert run(arguments) == 0


def test_of_several_processes_the_first_one_speaks(tmp_path):
    data, folder, weights = write_folder(tmp_path / "data"), tmp_path / "run", tmp_path / "w.safetensors"
    several = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "--", "engine"]
    arguments = ["train", configuration(tmp_path), "--data", str(data), "--run", str(folder), "--export", str(weights)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*several, *arguments], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    for said in ("boxes: ", "step 1 of 2: ", "step 2 of 2: ", "averaged weights: "):
        assert done.stderr.count(said) == 1, said
    assert load_weights(weights).metadata["steps"] == "2"


def test_a_run_on_packed_data_needs_nothing_else(tmp_path, capsys):
    data, shards = write_folder(tmp_path / "data"), tmp_path / "shards"
    arguments = ["pack", configuration(tmp_path), "--data", str(data), "--out", str(shards), "--limit-mb", "1", "--shard-mb", "1"]
    assert run(arguments) == 0
    assert "1 shards" in capsys.readouterr().err
    assert run(arguments) == 2
    assert "holds shards already" in capsys.readouterr().err
    (data / "train_images").rename(tmp_path / "gone")
    assert run(["train", configuration(tmp_path), "--data", str(shards), "--run", str(tmp_path / "run"), "--minutes", "1"]) == 0
    assert "boxes: coco 4" in capsys.readouterr().err


def test_training_on_packed_data_needs_no_video_library():
    """The machine with the GPU has PyTorch, OpenCV and what reads YAML and draws plots, and nothing else."""
    blocked = ";".join(f"sys.modules[{name!r}] = None" for name in ("av", "onnx"))
    modules = "engine.cli.app, engine.training.trainer, engine.training.data, engine.training.curves, engine.training.export"
    subprocess.run([sys.executable, "-c", f"import sys;{blocked};import {modules}"], check=True, timeout=120)
