"""Public checkpoints become safetensors, and no code in them is run."""

import argparse
import collections
import datetime
import os
import pickle
import sys
import types

import numpy as np
import pytest
import torch

from conformance.golden import draw
from engine import build_model, preset
from engine.errors import WeightsError
from engine.weights import load_weights
from engine.weights.checkpoint import Inert, read_checkpoint
from engine.weights.convert import convert, find_state_dict


def _statistics():
    """An object of a package that only the trainer's machine has, like those in public OSTrack checkpoints."""
    module = types.ModuleType("lib.train.admin.stats")
    module.StatValue = type("StatValue", (), {"__module__": module.__name__, "__qualname__": "StatValue"})
    sys.modules.update({"lib": types.ModuleType("lib"), module.__name__: module})
    value = module.StatValue()
    value.history = [1.0, 2.0]
    return value


def _forget_statistics():
    for name in ("lib", "lib.train.admin.stats"):
        sys.modules.pop(name, None)


class _Planted:
    def __reduce__(self):
        return os.system, ("touch planted",)


def test_full_size_ostrack_checkpoint_converts(tmp_path):
    config = preset("ostrack-384")
    net = collections.OrderedDict()
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in build_model(config).state_dict().items()}
    shapes |= {"backbone.cls_token": (1, 1, 768), "backbone.pos_embed": (1, 197, 768)}
    for name, shape in shapes.items():
        net[name] = torch.from_numpy(np.asarray(draw(name, tuple(shape), 12, 1.6))).to(
            torch.int64 if "num_batches" in name else torch.float32
        )
    extras = {
        "epoch": 300,
        "actor_type": "OSTrackActor",
        "stats": _statistics(),
        "settings": argparse.Namespace(local_rank=-1),
        "saved": datetime.datetime(2022, 7, 5),
        "lr": np.float64(1e-4),
    }
    torch.save({"net": net, **extras}, tmp_path / "OSTrack_ep0300.pth.tar")
    _forget_statistics()
    assert convert(tmp_path / "OSTrack_ep0300.pth.tar", tmp_path / "ostrack.safetensors") == config
    weights = load_weights(tmp_path / "ostrack.safetensors")
    assert weights.metadata["source"] == "OSTrack_ep0300.pth.tar"
    assert len(weights.metadata["source_sha256"]) == 64
    for name in ("backbone.pos_embed_x", "backbone.blocks.11.mlp.fc2.weight", "box_head.conv5_size.bias"):
        assert torch.equal(weights.state_dict[name], net[name])


def test_training_objects_become_placeholders(tmp_path):
    torch.save({"net": {"w": torch.ones(2)}, "stats": _statistics()}, tmp_path / "a.pth")
    _forget_statistics()
    checkpoint = read_checkpoint(tmp_path / "a.pth")
    assert isinstance(checkpoint["stats"], Inert)
    assert find_state_dict(checkpoint)["w"].tolist() == [1, 1]
    assert "lib" not in sys.modules


def test_shared_storage_views_and_parameters_come_back(tmp_path):
    base = torch.arange(12.0)
    saved = {
        "rows": base.view(3, 4)[1:],
        "column": base.view(3, 4)[:, 1],
        "parameter": torch.nn.Parameter(base[:2]),
        "bf16": base.bfloat16(),
    }
    torch.save(saved, tmp_path / "views.pth")
    loaded = read_checkpoint(tmp_path / "views.pth")
    assert all(torch.equal(loaded[name], value) for name, value in saved.items())


def test_a_planted_pickle_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"net": {"w": torch.ones(2)}, "extra": _Planted()}, "bad.pth.tar")
    with pytest.raises(WeightsError, match=r"refused: it asks for (posix|nt)\.system"):
        convert("bad.pth.tar", "out.safetensors")
    assert sorted(os.listdir()) == ["bad.pth.tar"]


@pytest.mark.parametrize("code", [b"cbuiltins\neval\n(S'1'\ntR.", b"ctorch\nload\n(S'x'\ntR.", b"ctorch.hub\nload\n(S'x'\ntR."])
def test_other_code_is_refused(tmp_path, code):
    import zipfile

    with zipfile.ZipFile(tmp_path / "bad.pth", "w") as archive:
        archive.writestr("archive/data.pkl", code)
    with pytest.raises(WeightsError, match="refused"):
        read_checkpoint(tmp_path / "bad.pth")


def test_out_of_bounds_tensors_are_refused(tmp_path):
    import zipfile

    torch.save({"w": torch.ones(4)}, tmp_path / "good.pth")
    with zipfile.ZipFile(tmp_path / "good.pth") as source, zipfile.ZipFile(tmp_path / "bad.pth", "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, data[:4] if name.endswith("data/0") else data)
    with pytest.raises(WeightsError, match="damaged"):
        read_checkpoint(tmp_path / "bad.pth")


def test_damaged_and_foreign_files_are_named(tmp_path):
    torch.save({"net": {"w": torch.ones(4)}}, tmp_path / "good.pth")
    cut = tmp_path / "cut.pth"
    cut.write_bytes((tmp_path / "good.pth").read_bytes()[:200])
    (tmp_path / "old.pth").write_bytes(pickle.dumps({"w": 1}))
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({0: torch.ones(4)}, tmp_path / "numbers.pth")
    for name, message in [
        ("cut", "not a checkpoint"),
        ("old", "not a checkpoint"),
        ("list", "no dictionary of tensors"),
        ("numbers", r"no dictionary of tensors .*the file has \['0'\]"),
        ("none", "not found"),
    ]:
        with pytest.raises(WeightsError, match=message):
            convert(tmp_path / f"{name}.pth", tmp_path / "out.safetensors")
    with pytest.raises(WeightsError, match="cannot tell the model"):
        convert(tmp_path / "good.pth", tmp_path / "out.safetensors")
    with pytest.raises(WeightsError, match="missing backbone"):
        convert(tmp_path / "good.pth", tmp_path / "out.safetensors", model="ostrack-256")
    assert not (tmp_path / "out.safetensors").exists()
