"""The training loop: stop and resume, schedules, what is trained and what is written."""

import json
import math
import random
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

from engine.errors import ConfigError, DeviceError, SinkError, WeightsError
from engine.training.checkpoint import CHECKPOINT
from engine.training.config import TrainConfig
from engine.training.distributed import choose_device
from engine.training.export import export_checkpoint
from engine.training.loader import Loader
from engine.training.losses import LossConfig
from engine.training.network import TrainingModel
from engine.training.paint_device import Painter
from engine.training.pairs import PairMaker
from engine.training.schedule import keep_ratio, rate_factor
from engine.training.settings import AugmentConfig
from engine.training.trainer import LOG, Trainer
from engine.weights.io import load_weights
from tests.engine.training.data import TINY, small_pool

TERMS = ("total", "focal", "giou", "l1", "absolute", "positive")


def settings(**changes):
    values = {
        "model": TINY, "device": "cpu", "precision": "fp32", "attention": "repulsion", "steps": 6, "batch": 2, "micro_batch": 1,
        "warmup_steps": 2, "head_lr": 1e-3, "backbone_lr": 5e-4, "keep_warmup": (2, 4), "ema": 0.9,
        "losses": LossConfig(box_cells="heat"), "augment": AugmentConfig(groups={"coco": 0.5, "video": 0.5}),
    }  # fmt: skip
    return TrainConfig(**(values | changes))


def trainer(folder, **changes):
    config = settings(**changes)
    return Trainer(config, PairMaker(small_pool(), config.model, config.augment, config.seed), folder)


def records(folder):
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def test_interrupted_runs_give_the_same_weights(tmp_path):
    whole = trainer(tmp_path / "whole")
    whole.run()
    for stop in sorted(random.sample(range(1, 6), 3)):
        first = trainer(tmp_path / str(stop))
        first.run(lambda record, run=first, at=stop: run.stop() if record["step"] == at else None)
        assert first.step == stop
        second = trainer(tmp_path / str(stop))
        assert second.step == stop
        second.run()
        for name, value in whole.model.state_dict().items():
            assert torch.equal(value, second.model.state_dict()[name]), name
        for name, value in whole.averaged.state_dict().items():
            assert torch.equal(value, second.averaged.state_dict()[name]), name
        assert [record["step"] for record in records(tmp_path / str(stop))] == list(range(1, 7))


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path):
    whole = trainer(tmp_path / "whole")
    whole.run()
    killed = trainer(tmp_path / "killed", checkpoint_minutes=1e-9)

    def die(record):
        if record["step"] == 4:  # the log holds step 4, the checkpoint step 3; `run` saves on its way out, a killed process does not
            killed.save = lambda: None
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed.run(die)
    with (tmp_path / "killed" / LOG).open("a") as log:
        log.write('{"step": 5, "tot')
    second = trainer(tmp_path / "killed")
    assert second.step == 3
    second.run()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    assert [record["step"] for record in records(tmp_path / "killed")] == list(range(1, 7))
    (tmp_path / "killed" / CHECKPOINT).unlink()  # and one that was killed before its first checkpoint starts again
    trainer(tmp_path / "killed", steps=1).run()
    assert [record["step"] for record in records(tmp_path / "killed")] == [1]


def test_a_run_stops_after_its_minutes(tmp_path):
    run = trainer(tmp_path)
    run.run(minutes=0)
    assert run.step == 1
    assert trainer(tmp_path).step == 1


def test_painting_on_the_device_resumes_exactly_too(tmp_path):
    whole = trainer(tmp_path / "whole", augment_on="device", drop_path=0.5)
    assert isinstance(whole.pairs.painter, Painter)
    whole.run()
    first = trainer(tmp_path / "parts", augment_on="device", drop_path=0.5)
    first.run(lambda record: first.stop() if record["step"] == 2 else None)
    second = trainer(tmp_path / "parts", augment_on="device", drop_path=0.5)
    second.run()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_drop_path_leaves_branches_out_in_training_only(tmp_path):
    model = TrainingModel(settings(drop_path=0.8))
    images = torch.randn(64, 3, 64, 64), torch.randn(64, 3, 128, 128)
    seen = {}
    for index, block in enumerate(model.network.backbone.blocks):
        block.mlp.register_forward_hook(lambda module, inputs, output, index=index: seen.update({index: output.detach()}))
    model(*images, 1.0)
    dropped = [float((seen[index].flatten(1).abs().amax(1) == 0).float().mean()) for index in range(3)]
    assert dropped[0] == 0
    assert 0.2 < dropped[1] < 0.6  # 0.4 at the middle layer
    assert 0.6 < dropped[2] < 0.95
    model.eval()
    first, second = model(*images, 1.0)[0].score_map, model(*images, 1.0)[0].score_map
    assert torch.equal(first, second)
    assert all(value.flatten(1).abs().amax(1).min() > 0 for value in seen.values())


def test_every_loss_falls(tmp_path):
    easy = AugmentConfig(
        groups={"coco": 1.0}, centre_jitter=0.5, scale_jitter=0.1, colours=0.2, composite=0, distractor=0, occlusion=0, fill=0
    )
    run = trainer(tmp_path, steps=40, batch=8, micro_batch=8, head_lr=3e-3, backbone_lr=1e-3, augment=easy)
    run.run()
    log = records(tmp_path)
    for term in TERMS:
        before, after = (np.mean([record[term] for record in part]) for part in (log[:4], log[-8:]))
        assert after < before, f"{term}: {before} -> {after}"
    assert np.mean([r["iou"] for r in log[-8:]]) > np.mean([r["iou"] for r in log[:4]])


@pytest.mark.parametrize("absent", [0.0, 0.5, 0.9])
def test_parts_of_a_batch_give_the_gradients_of_the_whole(tmp_path, absent):
    augment = AugmentConfig(groups={"coco": 0.5, "video": 0.5}, absent=absent)
    runs = [trainer(tmp_path / str(part), batch=8, micro_batch=part, augment=augment, clip=1e9) for part in (8, 1)]
    for run in runs:
        for module in run.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()  # its statistics are those of a part
    batch = runs[0].pairs.batch(0, 8)
    assert batch.present.all() == (absent == 0)
    terms = [run.train_step(batch) for run in runs]
    assert terms[0] == pytest.approx(terms[1], rel=1e-3, abs=1e-5)
    for one, other in zip(*(run.model.parameters() for run in runs), strict=True):
        if one.grad is not None:
            assert torch.allclose(one.grad, other.grad, rtol=1e-2, atol=1e-4 * float(one.grad.abs().max()) + 1e-7)


def test_frozen_layers_stay_until_their_step(tmp_path):
    run = trainer(tmp_path, frozen_layers=1, frozen_steps=2, steps=4)
    start = {name: value.clone() for name, value in run.model.named_parameters()}
    moved = {}
    run.run(lambda record: moved.update({record["step"]: {n for n, v in run.model.named_parameters() if not torch.equal(v, start[n])}}))
    lower = [name for name in start if any(part in name for part in ("patch_embed", "pos_embed", "blocks.0."))]
    assert not moved[2].intersection(lower)
    assert moved[2].issuperset(name for name in start if "blocks.1." in name and "weight" in name)
    assert moved[4].issuperset(name for name in lower if name.endswith(("qkv.weight", "proj.weight", "pos_embed_x")))


def test_learning_rate_and_keep_ratio():
    config = settings(steps=100, warmup_steps=10, decay=0.5, keep_warmup=(20, 40))
    assert [rate_factor(step, config) for step in (0, 9, 10, 49)] == [0.1, 1.0, 1.0, 1.0]
    assert rate_factor(75, config) == pytest.approx(0.5)
    assert rate_factor(99, config) == pytest.approx(0.02)
    stepped = config.replace(decay_shape="step")
    assert [rate_factor(step, stepped) for step in (49, 50, 99)] == [1.0, 0.1, 0.1]
    assert [keep_ratio(step, config) for step in (0, 19, 40, 99)] == [1.0, 1.0, 0.7, 0.7]
    assert keep_ratio(30, config) == pytest.approx(0.85)


def test_two_learning_rates_and_no_decay_on_vectors(tmp_path):
    run = trainer(tmp_path, layer_decay=0.5, weight_decay=0.3)
    names = {id(value): name for name, value in run.model.named_parameters()}
    groups = {names[id(value)]: group for group in run.optimizer.param_groups for value in group["params"]}
    assert set(groups) == set(names.values())
    backbone = "network.backbone."
    assert groups[f"{backbone}blocks.2.mlp.fc1.weight"]["base_lr"] == 5e-4
    assert groups[f"{backbone}blocks.1.mlp.fc1.weight"]["base_lr"] == 5e-4 * 0.5
    assert groups[f"{backbone}patch_embed.proj.weight"]["base_lr"] == 5e-4 * 0.125
    assert groups[f"{backbone}norm.weight"]["base_lr"] == 5e-4
    for name in ("network.box_head.conv1_ctr.0.weight", "position.absolute.weight"):
        assert (groups[name]["base_lr"], groups[name]["weight_decay"]) == (1e-3, 0.3)
    for name in (f"{backbone}pos_embed_x", f"{backbone}blocks.0.attn.qkv.bias", "network.box_head.conv1_ctr.1.weight"):
        assert groups[name]["weight_decay"] == 0


def test_export_leaves_the_position_heads_out(tmp_path):
    run = trainer(tmp_path, steps=2, notes={"licence": "none"})
    run.run()
    assert export_checkpoint(tmp_path / CHECKPOINT, tmp_path / "w.safetensors", run.config, {"data": "drawn"}) == 2
    weights = load_weights(tmp_path / "w.safetensors")
    assert weights.config == TINY
    assert (weights.metadata["steps"], weights.metadata["pairs"], weights.metadata["seed"], weights.metadata["data"]) == (
        "2",
        "4",
        "0",
        "drawn",
    )
    assert weights.metadata["licence"] == "none"
    assert json.loads(weights.metadata["training"])["batch"] == 2
    for name, value in weights.state_dict.items():
        mean = run.averaged.network.state_dict()[name]
        assert torch.allclose(value, mean, rtol=1e-3, atol=1e-4), name
    network = weights.model()
    assert math.isfinite(float(network(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 128, 128)).score_map.sum()))


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path):
    run = trainer(tmp_path, steps=1)
    run.run()
    with pytest.raises(ConfigError, match="another model"):
        trainer(tmp_path, model=TINY.replace(beta=0.5))
    (tmp_path / CHECKPOINT).write_bytes((tmp_path / CHECKPOINT).read_bytes()[:1000])
    with pytest.raises(WeightsError, match="not the checkpoint of a training run"):
        export_checkpoint(tmp_path / CHECKPOINT, tmp_path / "w.safetensors", run.config)


def test_a_run_goes_on_with_other_rates_but_not_with_other_groups_of_them(tmp_path):
    trainer(tmp_path).run(lambda _: None, 0.0)
    trainer(tmp_path, head_lr=2e-3, backbone_lr=1e-3)
    with pytest.raises(ConfigError, match=r"expected as many groups of equal rates as that run had, got .* by backbone_lr, head_lr, "):
        trainer(tmp_path, layer_decay=0.9)


def test_initialisation_from_safetensors(tmp_path):
    first = trainer(tmp_path / "a", steps=1)
    first.run()
    export_checkpoint(tmp_path / "a" / CHECKPOINT, tmp_path / "w.safetensors", first.config)
    second = trainer(tmp_path / "b", init=str(tmp_path / "w.safetensors"))
    for name, value in load_weights(tmp_path / "w.safetensors").state_dict.items():
        assert torch.equal(second.model.network.state_dict()[name], value), name
    with pytest.raises(WeightsError, match=r"\.whl, \.onnx or \.safetensors"):
        trainer(tmp_path / "c", init="weights.pth")


def test_the_data_threads_end_before_close_returns():
    """One that computes while the interpreter ends aborts the process: "terminate called without an active exception"."""
    begun, made = threading.Event(), []

    def slow(step):
        begun.set()
        time.sleep(0.2)
        made.append(step)

    before = threading.active_count()
    loader = Loader(slow, 0, threads=1)
    begun.wait(60)
    loader.close()
    assert threading.active_count() == before
    assert made == [0]  # not those that were planned beside it


def test_errors_of_the_data_threads_reach_the_loop():
    def broken(step):
        raise ValueError(f"picture of step {step}")

    loader = Loader(broken, 0, threads=1)
    with pytest.raises(ValueError, match="picture of step 0"):
        loader.take()
    loader.close()


def test_devices():
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(DeviceError):
        choose_device("no such thing")
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="0 CUDA devices"):
            choose_device("cuda")


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", b"PK\x03\x04 cut"])
def test_a_damaged_checkpoint_names_itself(tmp_path, content):
    (tmp_path / CHECKPOINT).write_bytes(content)
    with pytest.raises(WeightsError, match=r"checkpoint\.pt"):
        trainer(tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == content


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    torch.save({"weights": torch.zeros(2)}, tmp_path / CHECKPOINT)
    with pytest.raises(WeightsError, match="not a checkpoint of a run: expected averaged, model,"):
        trainer(tmp_path)


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    run = trainer(tmp_path)
    run.save()
    before = (tmp_path / CHECKPOINT).read_bytes()

    def full(state, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(SinkError, match=r"checkpoint\.pt: .*No space left"):
        run.save()
    assert [file.name for file in tmp_path.iterdir() if CHECKPOINT in file.name] == [CHECKPOINT]
    assert (tmp_path / CHECKPOINT).read_bytes() == before
