"""IoU of pairs from the training material and from clips that were held out."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from benchmarks import held_out
from engine.cli.exits import run_function
from engine.model.network import build_model
from engine.training.pairs import Batch, PairMaker
from engine.training.settings import AugmentConfig
from engine.weights.io import save_weights
from tests.engine.evaluation import trees
from tests.engine.training.data import TINY, small_pool, write_folder


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        run_function(held_out.main, list(map(str, arguments)))
    return caught.value.code or 0


@pytest.fixture
def given(tmp_path):
    """A configuration, weights, and a folder of held-out sequences."""
    values = {
        "model": TINY.to_dict() | {"elimination_layers": list(TINY.elimination_layers)},
        "seed": 1,
        "augment": {"groups": {"coco": 1.0}},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))
    torch.manual_seed(0)
    for name, seed in (("old", 0), ("new", 1)):
        torch.manual_seed(seed)
        save_weights(tmp_path / f"{name}.safetensors", build_model(TINY).state_dict(), TINY)
    trees.otb(tmp_path / "apart", "one", 4, truth="groundtruth.txt")
    trees.otb(tmp_path / "apart", "two", 3, truth="groundtruth.txt")
    write_folder(tmp_path / "data")
    return tmp_path


def test_the_box_at_the_maximum_is_what_counts():
    """One cell of each pair has the target's box, or one beside it; all others have none."""
    cells, boxes = 8, torch.tensor([[0.40, 0.55, 0.20, 0.10], [0.70, 0.30, 0.30, 0.40], [0.5, 0.5, 0.2, 0.2]])
    score, size, offset = torch.zeros(3, 1, cells, cells), torch.zeros(3, 2, cells, cells), torch.zeros(3, 2, cells, cells)
    said = boxes + torch.tensor([[0.0, 0, 0, 0], [0.15, 0, 0, 0], [0.3, 0, 0, 0]])  # on it, half beside it, off it
    for index, (x, y, w, h) in enumerate(said.tolist()):
        column, row = int(x * cells), int(y * cells)
        score[index, 0, row, column] = 0.5
        size[index, :, row, column] = torch.tensor([w, h])
        offset[index, :, row, column] = torch.tensor([x * cells - column, y * cells - row])
    network = lambda template, search, ratio, template_box: SimpleNamespace(score_map=score, size_map=size, offset_map=offset)  # noqa: E731
    batch = Batch(torch.zeros(3, 16, 16, 3, dtype=torch.uint8), torch.zeros(3, 32, 32, 3, dtype=torch.uint8), boxes, torch.ones(3), boxes)
    assert held_out.overlaps_of(network, batch, 1.0) == pytest.approx([1, 1 / 3, 0], abs=1e-5)


def test_held_out_pairs_show_held_out_clips_alone():
    pool = small_pool()
    apart = [dataclasses.replace(pool.clips["video"][0], frames=[frame.copy() for frame in pool.clips["video"][0].frames])]
    found = held_out.kinds(pool, AugmentConfig(groups={"coco": 0.7, "video": 0.3}, absent=1.0), apart)
    assert list(found) == ["training photos", "training clips", "held out"]
    frames = {
        "training photos": {id(still.pictures) for still in pool.stills["coco"]},
        "training clips": {id(pool.clips["video"][0].frames)},
        "held out": {id(apart[0].frames)},
    }
    for kind, (material, augment) in found.items():
        recipes = [PairMaker(material, TINY, augment, 5).recipe(index) for index in range(20)]
        assert all(recipe.present for recipe in recipes)
        assert {id(recipe.template.layers[-1].pictures) for recipe in recipes} <= frames[kind]
    assert "training clips" not in held_out.kinds(pool, AugmentConfig(groups={"coco": 1.0}), apart)


def test_differences_are_taken_pair_by_pair():
    rows = list(held_out.rows_of({"old": [0.1, 0.9, 0.5], "new": [0.3, 0.8, 0.7]}, "held out", 2))
    assert (rows[0].gain, rows[0].gain_error) == (None, None)
    assert rows[0].error == pytest.approx(0.4 / 3**0.5)
    assert (rows[1].gain, rows[1].gain_error) == pytest.approx((0.1, 0.1))  # differences of 0.2, -0.1 and 0.2: 0.173 over the root of three
    assert held_out.table(rows)[1][1][-1] == "+0.100 +- 0.100"


def test_a_report(given, capsys):
    weights = [given / "old.safetensors", given / "new.safetensors"]
    more = ("--held-out", given / "apart", "--data", given / "data", "--pairs", 11, "--json", "-", "--store", given)
    assert run(given / "tiny.yaml", *weights, *more) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["kind"], row["weights"], row["tracks"], row["pairs"]) for row in rows] == [
        ("training photos", "old", 0, 11),
        ("training photos", "new", 0, 11),
        ("held out", "old", 2, 11),
        ("held out", "new", 2, 11),
    ]
    stored = json.loads((given / "held-out.json").read_text())["rows"]
    assert [row["iou"] for row in stored] == [row["iou"] for row in rows]
    assert all(0 <= row["iou"] <= 1 and np.isfinite(row["error"]) for row in rows)
    assert "| held out | new | 2 | 11 |" in (given / "held-out.md").read_text()
    assert run(given / "tiny.yaml", *weights, *more, "--precision", "bf16") == 0
    rounded = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["precision"] for row in rounded] == ["bf16"] * 4
    assert [row["iou"] for row in rounded] != [row["iou"] for row in rows]


def test_bad_input(given, capsys):
    config, weights, apart = given / "tiny.yaml", given / "old.safetensors", ("--held-out", given / "apart", "--data", given / "data")
    assert run(config, weights, *apart, "--seed", 1) == 2
    assert "got 1, whose pairs it has seen" in capsys.readouterr().err
    assert run(config, "esat-s-256", *apart) == 2
    assert "expected the crops of" in capsys.readouterr().err
    assert run(config, weights, *apart, "--precision", "int8") == 2
    assert "expected fp32 or bf16, got 'int8'" in capsys.readouterr().err
    twin = shutil.copy(weights, given / "apart")
    assert run(config, weights, twin, *apart) == 2
    assert "expected files of different names, got old twice" in " ".join(capsys.readouterr().err.split())
    (given / "empty").mkdir()
    assert run(config, weights, "--held-out", given / "empty", "--data", given / "data") == 2
    assert run(config, weights, "--data", given / "data") == 2
