"""The GPU engine in fp8 on its emulated path: how far from float32, and where it refuses."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import esat_kernels
from conformance.golden import patch_rows
from engine.errors import DeviceError
from engine.runners.choice import make_runner
from engine.runners.gpu.network import GpuNetwork, Kernels
from engine.runners.gpu.runner import GpuRunner
from esat_kernels import _device
from tests.engine.runners.gpu import models

CPU = torch.device("cpu")
WIDE = {"dim": 128, "heads": 2}  # what groups of 128 columns ask for


def maps_of(weights, dtype, fp8=False):
    """The network's maps of drawn images [2, ...], by the reference kernels."""
    config = weights.config
    network = GpuNetwork(weights, CPU, dtype, Kernels.of("reference"), fp8)
    generator = torch.Generator().manual_seed(0)
    template, search = (torch.randn(2, 3, size, size, generator=generator) for size in (config.template_size, config.search_size))
    inputs = network.inputs(2)
    with torch.no_grad():
        for index, patches in enumerate(patch_rows(template).to(dtype)):
            for part, value in zip(inputs, network.encode_template(patches), strict=True):
                part[index, : config.num_template] = value
        return network.run(patch_rows(search).to(dtype), inputs).maps


def test_eight_bits_are_between_sixteen_and_a_wrong_network():
    """Of random weights, without elimination, whose ranking of near ties rounding would decide: further from float32 than bfloat16, but not far."""
    weights = models.weights(keep_ratio=1.0, **WIDE)
    exact, half, eight = maps_of(weights, torch.float32), maps_of(weights, torch.bfloat16), maps_of(weights, torch.bfloat16, fp8=True)
    for name, map_ in exact._asdict().items():
        error, sixteen = ((getattr(other, name) - map_).abs().mean() for other in (eight, half))
        assert sixteen < error <= 0.25 * (map_ - map_.mean()).abs().mean()


def test_boxes_agree_with_pytorch_on_real_frames(shared):
    """Mean IoU on the same regions: at least the budget of 0.97 (0.984 on 40 frames of ten sequences)."""
    from engine.datasets.layouts import open_dataset
    from engine.evaluation.metrics import iou
    from engine.weights import DEFAULT_MODEL, find_weights

    weights = find_weights(DEFAULT_MODEL)
    runners = [make_runner(weights, "cpu", "fp32", "reference"), GpuRunner(weights, "cpu", "fp8", "reference")]
    found = []
    for name in ("davis_dog", "davis_car-shadow"):
        sequence = next(one for one in open_dataset(shared / "data" / "eval_dev").sequences if one.name == name)
        frames = sequence.frames()
        first, box = next(frames), tuple(sequence.boxes[0].tolist())
        frame = next(frames)
        found += [[runner.observe(frame, [box], [runner.encode_template(first, box, True)], True).targets[0].box for runner in runners]]
    pairs = torch.tensor(found, dtype=torch.float64).numpy()
    assert iou(pairs[:, 0], pairs[:, 1]).mean() >= 0.97


def test_on_a_cpu_it_is_refused_and_int8_named():
    with pytest.raises(
        DeviceError, match=r"fp8 runs on the GPU engine only, .* compute capability 8.9 on, got cpu: dtype int8 is the CPU engine's"
    ):
        make_runner(models.weights(**WIDE), "cpu", "fp8")


@pytest.mark.parametrize(("capability", "message"), [((8, 0), "compute capability 8.9, got 8.0"), ((9, 0), None)])
def test_which_devices_have_it(capability, message, monkeypatch):
    properties = SimpleNamespace(name="some", major=capability[0], minor=capability[1])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device=None: properties)
    found = esat_kernels.fp8_unsupported(torch.device("cuda"), 128, 512)
    assert (found is None) if message is None else message in found
    assert "multiples of 128, got 96" in (esat_kernels.fp8_unsupported(CPU, 96, 384) or "")
    monkeypatch.setattr(_device, "VERIFIED", {})
    with pytest.raises(DeviceError, match=r"cannot run: eight-bit products need inputs and outputs in multiples of 128, got 64, 256"):
        GpuRunner(models.weights(), "cpu", "fp8", "reference")


def test_on_a_gpu_whose_kernels_nobody_verified_they_have_to_be_named(monkeypatch):
    monkeypatch.setattr("engine.runners.choice.resolve_device", lambda device: "cuda:0")
    monkeypatch.setattr("engine.runners.choice._gpu_kernels", lambda device, backend: None)
    with pytest.raises(DeviceError, match="got backend 'auto': name triton or cuda"):
        make_runner(models.weights(**WIDE), "cuda", "fp8")
