"""Training configurations: the shipped files, and what is refused."""

import re
from pathlib import Path

import pytest

from engine.config import preset
from engine.errors import ConfigError
from engine.training.config import TrainConfig, parse, read_config

FOLDER = Path(__file__).resolve().parents[3] / "configs"


def test_shipped_files_are_valid():
    small, paper = read_config(FOLDER / "esat-s-256.yaml"), read_config(FOLDER / "esat-384.yaml")
    assert small.model == preset("esat-s-256")
    assert (small.losses.absolute, small.losses.positive, small.losses.giou, small.losses.l1) == (0.01, 0.1, 2.0, 5.0)
    assert paper.model == preset("esat-384")
    assert (paper.backbone_lr, paper.head_lr, paper.weight_decay, paper.batch) == (4e-5, 4e-4, 1e-4, 16)
    assert paper.steps == 300 * 60000 // 16
    assert (paper.decay, paper.decay_shape, paper.losses.box_cells) == (0.2, "step", "peak")
    assert (paper.augment.centre_jitter, paper.augment.max_gap, paper.augment.grey, paper.augment.brightness) == (4.5, 200, 0.05, 0.2)
    assert paper.augment.scale_jitter == pytest.approx(0.5 / 2**0.5, abs=1e-3)  # public code: 0.5 on width and height, each by itself
    assert (paper.drop_path, paper.position_shared, paper.precision, paper.clip) == (0.1, True, "fp32", 0.1)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_file_names_its_settings_rightly(path):
    config = read_config(path)
    if path.stem != "ablation-small":
        assert config.model == preset(re.fullmatch(r"(esat-384|esat-s-256)(-gpu|-seventh|-eighth)?", path.stem)[1])


def test_overrides_and_defaults(tmp_path):
    (tmp_path / "c.yaml").write_text("steps: 10\nmodel: esat-256\nkeep_warmup: [1, 2]\nlosses: {absolute: 0, positive: 0}\n")
    config = read_config(tmp_path / "c.yaml", steps=20)
    assert (config.steps, config.model.name, config.keep_warmup, config.chunk) == (20, "esat-256", (1, 2), config.batch)
    assert not config.losses.position
    assert TrainConfig().replace(seed=4).to_dict()["seed"] == 4


def test_a_base_gives_what_a_file_does_not_say(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "first.yaml").write_text(
        "steps: 10\nbatch: 4\naugment: {grey: 0.5, groups: {coco: 1, video: 1}}\nnotes: {name: a}\nclips: {a: b}\n"
    )
    (tmp_path / "below" / "second.yaml").write_text("base: first.yaml\nbatch: 8\naugment: {blur: 0.1}\n")
    (tmp_path / "third.yaml").write_text(
        "base: below/second.yaml\nkeep_warmup: [1, 2]\naugment: {grey: 0.1, groups: {video: null, bsds: 2}}\nclips: null\n"
    )
    assert read_config(tmp_path / "below" / "second.yaml").clips == {"a": "b"}
    (tmp_path / "other.yaml").write_text("base: below/fifth.yaml\naugment: {groups: {animated: null, coco: 1}}\n")
    (tmp_path / "below" / "fifth.yaml").write_text("steps: 10\n")
    assert read_config(tmp_path / "other.yaml").augment.groups == {"coco": 1}
    config = read_config(tmp_path / "third.yaml", steps=20)
    assert config.clips == {}
    assert (config.steps, config.batch, config.keep_warmup, config.notes) == (20, 8, (1, 2), {"name": "a"})
    assert (config.augment.grey, config.augment.blur, config.augment.groups) == (0.1, 0.1, {"coco": 1, "bsds": 2})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: [1]", r"base must be the name of a file .*, got \[1\]"),
        ("base: a.yaml", "a.yaml: base must be .* does not lead back to this one, got 'a.yaml'"),
        ("base: below/b.yaml", "a.yaml: base must be .* does not lead back to this one"),
        ("base: none.yaml", "cannot read the training configuration .*none.yaml"),
        ('base: "a\\0b"', "cannot read"),
        ("base: below/c.yaml\nnotes: &a {b: *a}", "got some that contain themselves"),
    ],
)
def test_bases_that_cannot_be(tmp_path, text, message):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "b.yaml").write_text("base: ../a.yaml\n")
    (tmp_path / "below" / "c.yaml").write_text("notes: &a {b: *a}\n")
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_config(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"step": 3}, "unknown keys.*step"),
        ({"steps": 0}, "steps must be a positive integer, got 0"),
        ({"batch": 10, "micro_batch": 4}, "multiple of micro_batch, got 10 and 4"),
        ({"precision": "fp8"}, "precision"),
        ({"attention": "none"}, "attention"),
        ({"decay": 2}, "decay"),
        ({"frozen_layers": 13}, r"\[0, 12\]"),
        ({"head_lr": 0}, "head_lr"),
        ({"augment_on": "gpu"}, "augment_on must be 'auto', 'cpu' or 'device', got 'gpu'"),
        ({"drop_path": 1}, r"drop_path must lie in \[0, 1\), got 1"),
        ({"augment": {"brightness": 2}}, "brightness must lie in"),
        ({"losses": {"l2": 1}}, "losses: unknown keys"),
        ({"augment": [1]}, "augment: expected a mapping"),
        ({"model": "esat-9"}, "unknown model"),
        ({"micro_batch": -4}, "micro_batch must be a positive integer or null, got -4"),
        ({"micro_batch": 0}, "micro_batch must be a positive integer or null, got 0"),
        ({"notes": {"year": 2024}}, "notes must be texts by name, got .'year': 2024"),
    ],
)
def test_bad_settings_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        parse(values)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        read_config(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="expected a mapping"):
        read_config(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(ConfigError, match="cannot read"):
        read_config(tmp_path / "broken.yaml")
