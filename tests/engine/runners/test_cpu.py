"""The CPU engine on every instruction set and dtype that the machine has: parts against float64, the whole against golden values (fp32) or
within what PyTorch's own bf16 reaches."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import accuracy
from benchmarks.peers.frame import patch_rows
from conformance import golden
from engine import Tracker
from engine.config import ModelConfig
from engine.datasets.layouts import open_dataset
from engine.errors import DeviceError, EsatWarning
from engine.model.head import CenterHead
from engine.runners.choice import make_runner
from engine.runners.cpu.head import Head
from engine.runners.cpu.network import CpuNetwork, unsupported
from engine.runners.cpu.runner import CpuRunner
from engine.runners.cpu.weights import pack_weights
from engine.runners.pytorch import TorchRunner
from engine.weights import DEFAULT_MODEL, find_weights, load_weights
from engine.weights.io import Weights
from esat_kernels import _native
from tests.kernels.defaults import DEFAULTS, set_default
from tests.kernels.layer_cases import INT8, PLAIN, Engine, engines, threads_put_back
from tests.require import require

plain, int8, engine = engines(PLAIN), engines(INT8), engines([*PLAIN, *INT8])
_threads = threads_put_back()


def _weights(**changes) -> Weights:
    config = ModelConfig(
        name="test", dim=192, heads=6, depth=4, template_size=128, search_size=160, head_channels=48, elimination_layers=(1, 2)
    )
    return golden.draw_weights(config.replace(**changes), 3, 2.0, Path("test"))


def _head_case(engine: Engine, seed: int = 6) -> tuple[Head, CenterHead, Tensor, ModelConfig]:
    weights = _weights(dim=96, heads=3)
    config = weights.config
    head = Head(pack_weights(weights.state_dict, config, engine.dtype).branches, config)
    reference = CenterHead(config).eval()
    reference.load_state_dict({k.removeprefix("box_head."): v for k, v in weights.state_dict.items() if k.startswith("box_head.")})
    features = torch.randn(config.num_search, config.dim, generator=torch.Generator().manual_seed(seed)).to(engine.dtype)
    features[::3] = 0
    head.features[head.places] = features
    image = features.float().t().reshape(1, config.dim, config.search_grid, config.search_grid)
    return head, reference, image, config


def test_head_equals_the_reference_head_at_every_cell(plain):
    """Offset and size from a 9 x 9 window are those of the whole map, borders and corners included."""
    head, reference, image, config = _head_case(plain)
    with torch.inference_mode():
        score, size, offset = reference(image)
    near = 0.03 if plain.name == "bf16" else 1e-5
    assert (head.score() - score[0, 0]).abs().max() < near
    for cell in range(config.num_search):
        seen_offset, seen_size = head.offset_and_size(cell)
        y, x = divmod(cell, config.search_grid)
        assert (seen_offset - offset[0, :, y, x]).abs().max() < near * offset.abs().max()
        assert (seen_size - size[0, :, y, x]).abs().max() < near


@pytest.mark.parametrize("name", ["small_plain", "small_fda", "small_fda_paper"])
def test_forward_equals_the_golden_values(plain, shared, name):
    """fp32 within 1e-4 with the same tokens removed; bf16 as near as PyTorch's."""
    path = shared / "oracle" / f"{name}.npz"
    content = dict(np.load(path))
    spec = json.loads(str(content["spec"]))
    config = golden.model_config(spec)
    weights = golden.draw_weights(config, spec["seed"], spec["gain"], path)
    template, search = golden.draw_images(spec["zs"], spec["xs"], spec["seed"])
    network = CpuNetwork(weights, plain.name)
    network.patches.copy_(patch_rows(search, plain.dtype))
    network.run(network.encode_template(patch_rows(template, plain.dtype)))
    golden_score = torch.from_numpy(content["score_map"]).flatten()
    cell = int(golden_score.argmax())
    offset, size = network.head.offset_and_size(cell)
    offset_error = (offset - torch.from_numpy(content["offset_map"]).view(2, -1)[:, cell]).abs().max()
    size_error = (size - torch.from_numpy(content["size_map"]).view(2, -1)[:, cell]).abs().max()
    removed = _removed(network, config)
    golden_removed = [set(content[f"removed_{index}"].flatten().tolist()) for index in range(len(removed))]
    if plain.name == "fp32":
        assert (network.head.score().flatten() - golden_score).abs().max() < 1e-4
        assert max(offset_error, size_error) < 1e-4
        assert removed == golden_removed
        return
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        peer = weights.model("reference")(template, search)
    error = (network.head.score().flatten() - golden_score).abs().mean()
    assert error < 1.5 * (peer.score_map.float().flatten() - golden_score).abs().mean() + 0.005
    for mine, theirs in zip(removed, golden_removed, strict=True):
        assert len(mine & theirs) >= 0.9 * len(theirs)
    assert offset_error < 0.25
    assert size_error < 0.05


def _removed(network: CpuNetwork, config: ModelConfig) -> list[set[int]]:
    """The search tokens that each elimination of the last frame took away."""
    alive, removed = set(range(config.num_search)), []
    for survivors in network.survivors:
        removed.append(alive - set(survivors.tolist()))
        alive = set(survivors.tolist())
    return removed


def test_the_choice_of_the_engine(engine):
    weights = _weights()
    runner = make_runner(weights, "cpu", engine.name)
    assert isinstance(runner, CpuRunner)
    assert runner.dtype == engine.name
    assert isinstance(make_runner(weights, "cpu:0", engine.name), CpuRunner)
    auto = make_runner(weights, "cpu")
    assert isinstance(auto, CpuRunner)
    assert auto.dtype == ("bf16" if engine.dtype == torch.bfloat16 else "fp32")  # int8 is taken only where it is asked for
    if engine.name == "int8":
        with pytest.raises(DeviceError, match="int8 runs on the CPU engine only: another device or backend"):
            make_runner(weights, "cpu", "int8", "reference")
    else:
        assert isinstance(make_runner(weights, "cpu", engine.name, "reference"), TorchRunner)


def test_what_the_engine_cannot_do_goes_to_pytorch_with_a_reason(monkeypatch):
    require("cpu", _native.unavailable())
    weights = _weights()
    monkeypatch.setenv("ESAT_CPU", "portable")
    assert unsupported(weights.config, "fp32") == "fp32 needs a processor with AVX2 or NEON, the kernels use portable"
    assert unsupported(weights.config, "bf16") == "bf16 needs a processor with bf16 and AVX-512 or NEON, the kernels use portable"
    assert "fp32, bf16, int8, not in fp16" in (unsupported(weights.config, "fp16") or "")
    with pytest.raises(DeviceError, match="int8 needs a processor with AVX2 or NEON's dot products, the kernels use portable"):
        make_runner(weights, "cpu", "int8")
    runner = make_runner(weights, "cpu")
    assert isinstance(runner, TorchRunner)
    assert runner.dtype == "fp32"


def test_the_runner_sees_what_pytorch_in_float32_sees(plain):
    """Over several frames: random weights leave near ties among tokens and cells, which PyTorch's own bf16 decides otherwise as often."""
    weights = _weights()
    runners = [make_runner(weights, "cpu", plain.name), make_runner(weights, "cpu", "fp32", "reference")]
    box, scores, cosines, common, kept = (120.0, 80.0, 50.0, 40.0), [], [], 0, 0
    for seed in range(6):
        small = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        frame = np.kron(small, np.ones((20, 20, 1), np.uint8))
        templates = [runner.encode_template(frame, box, True) for runner in runners]
        seen = [
            runner.observe(frame, [box, (10.0, 10.0, 60.0, 60.0)], [template] * 2, True).targets
            for runner, template in zip(runners, templates, strict=True)
        ]
        for low, high in zip(*seen, strict=True):
            assert low.region_side == high.region_side
            scores.append(abs(low.score - high.score))
            cosines.append(low.features @ high.features / (np.linalg.norm(low.features) * np.linalg.norm(high.features)))
            common += len(set(low.kept_tokens.tolist()) & set(high.kept_tokens.tolist()))
            kept += len(high.kept_tokens)
    if plain.name == "bf16":
        assert common >= 0.94 * kept
        assert np.mean(scores) < 0.05
        assert np.median(cosines) > 0.99
    else:
        assert common == kept
        assert max(scores) < 1e-4
        assert min(cosines) > 1 - 1e-5


def test_the_box_of_the_template_is_read_in_every_type(engine):
    """The same crops with two boxes: what differs between the score maps is the mark's doing."""
    weights = _weights(token_types=True, elimination_layers=())  # near ties among tokens are not what is looked at
    template, search = golden.draw_images(128, 160, 9)
    boxes = torch.tensor([[[0.5, 0.5, 0.7, 0.35]], [[0.5, 0.5, 0.35, 0.7]]])
    network, reference = CpuNetwork(weights, engine.name), weights.model("reference")

    def score(box: Tensor) -> Tensor:
        network.patches.copy_(patch_rows(search, engine.dtype))
        network.run(network.encode_template(patch_rows(template, engine.dtype), box))
        return network.head.score().flatten().clone()

    with torch.inference_mode():
        one, other = (reference(template, search, template_box=box).score_map.flatten() for box in boxes)
    error = (score(boxes[0]) - score(boxes[1])) - (one - other)
    assert error.norm() < {"fp32": 1e-4, "bf16": 0.3, "int8": 0.6}[engine.name] * (one - other).norm()


def test_int8_boxes_agree_with_float32_on_real_frames(int8, shared):
    """The shipped weights, on the same search regions: the budget for a faster mode is a mean IoU of 0.97."""
    weights = find_weights(DEFAULT_MODEL)
    runners = [make_runner(weights, "cpu", mode) for mode in ("fp32", "int8")]
    findings = [accuracy.Findings(runner.dtype) for runner in runners]
    for sequence in open_dataset(shared / "data" / "eval_dev").sequences:
        if sequence.scored:
            accuracy.compare(sequence, runners, findings, 6)
    row = findings[1].row(findings[0])
    assert row["frames"] >= 50
    assert row["same_region_iou"] >= 0.97
    assert row["kept_overlap"] >= 0.96


def test_frames_repeat_to_the_bit(engine):
    tracker = Tracker(make_runner(_weights(), "cpu", engine.name))
    frame = np.random.default_rng(8).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    results = []
    for _ in range(2):
        tracker.init(frame, (40, 30, 50, 40))
        results.append([tracker.update(frame).box for _ in range(3)])
    assert results[0] == results[1]


@pytest.mark.parametrize("default", DEFAULTS, ids=str)
@pytest.mark.parametrize(("dtype", "backend"), [("auto", "auto"), ("int8", "auto"), ("fp32", "reference")])
def test_defaults_of_pytorch_change_no_box(dtype, backend, default):
    weights = _weights()
    require("cpu", unsupported(weights.config, "int8"))
    frames = np.random.default_rng(3).integers(0, 256, (2, 120, 160, 3), dtype=np.uint8)

    def box() -> tuple[float, ...]:
        tracker = Tracker(make_runner(weights, "cpu", dtype, backend))
        tracker.init(frames[0], (40, 30, 50, 40))
        return tracker.update(frames[1]).box

    expected = box()
    with set_default(default):
        assert box() == expected


def test_results_do_not_depend_on_the_number_of_threads(engine):
    network = CpuNetwork(_weights(dim=384, heads=6), engine.name)
    template, search = golden.draw_images(128, 160, 9)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        network.patches.copy_(patch_rows(search, engine.dtype))
        seen = network.run(network.encode_template(patch_rows(template, engine.dtype)))
        found.append((seen._replace(features=seen.features.tolist()), network.head.score().clone()))
    assert found[0][0] == found[1][0] == found[2][0]
    assert torch.equal(found[0][1], found[1][1])
    assert torch.equal(found[0][1], found[2][1])


def test_models_that_do_not_fit_the_products_run_elsewhere(engine):
    config = ModelConfig(name="odd", dim=48, heads=3, depth=1, template_size=64, search_size=64, elimination_layers=())
    assert "multiples" in (unsupported(config, engine.name) or "")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"patch_size": 8}, "patches of 16 x 16 pixels, got 8"),
        ({"patch_size": 32}, "patches of 16 x 16 pixels, got 32"),
        ({"heads": 1}, "a head dimension of at most 128, got 192"),
    ],
)
def test_models_beyond_the_kernels_are_tracked_by_pytorch(changes, reason):
    require("cpu", unsupported(_weights().config, "fp32"))
    weights = _weights(depth=1, elimination_layers=(), **changes)
    assert reason in (unsupported(weights.config, "fp32") or "")
    tracker = Tracker(weights, "cpu")
    assert isinstance(tracker.runner, TorchRunner)
    frame = np.random.default_rng(8).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    tracker.init(frame, (40, 30, 50, 40))
    assert np.isfinite(tracker.update(frame).box).all()


def test_a_named_dtype_that_only_pytorch_computes_is_told(tiny_weights, monkeypatch):
    monkeypatch.delenv("ESAT_CPU", raising=False)
    weights = load_weights(tiny_weights)
    require("cpu", unsupported(weights.config, "fp32"))
    with pytest.warns(
        EsatWarning, match="dtype fp16 will be slow, since PyTorch computes it here: .*not in fp16; dtype fp32, or auto"
    ) as told:
        assert isinstance(make_runner(weights, "cpu", "fp16"), TorchRunner)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for dtype, backend in (("auto", "auto"), ("fp32", "auto"), ("fp16", "reference")):
            make_runner(weights, "cpu", dtype, backend)
