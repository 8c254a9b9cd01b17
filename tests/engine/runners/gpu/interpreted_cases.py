"""A frame through all Triton kernels in the interpreter, against the reference kernels; run by test_interpreted.py in a process of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.gpu import fp8_checks
from benchmarks.gpu.frame import NetworkFrame
from benchmarks.gpu.inputs import images
from engine import Tracker
from engine.runners.gpu.network import GpuNetwork, Kernels
from engine.runners.gpu.runner import GpuRunner
from tests.engine.runners.gpu import models
from tests.kernels import interpreter

interpreter.compute_as_a_gpu()
torch.set_num_threads(1)


@pytest.mark.parametrize(("dtype", "pixels", "score"), [("fp32", 0.01, 1e-5), ("bf16", 1.0, 0.02), ("fp8", 2.0, 0.05)])
def test_a_frame_equals_the_reference(dtype, pixels, score):
    wide = {"dim": 128, "heads": 2} if dtype == "fp8" else {}
    weights = models.weights(depth=2, elimination_layers=(1,), template_size=32, search_size=64, **wide)
    pictures = models.frames(2 if dtype == "fp8" else 3)
    found = []
    for backend in ("triton", "reference"):
        tracker = Tracker(GpuRunner(weights, "cpu", dtype, backend))
        tracker.init(pictures[0], (60, 40, 30, 20))  # whose cells are no ties: fp32 and bf16 choose the same ones
        found.append([tracker.update(picture) for picture in pictures[1:]])
    for ours, expected in zip(*found, strict=True):
        np.testing.assert_allclose(ours.box, expected.box, rtol=0, atol=pixels)
        assert ours.score == pytest.approx(expected.score, abs=score)
        same = len(np.intersect1d(ours.kept_tokens, expected.kept_tokens))
        assert same >= len(expected.kept_tokens) - (2 if dtype == "fp8" else 0)  # of random weights: the order of equal steps decides ties


def test_each_layer_in_fp8_equals_the_reference():
    """By the check that a GPU's frames have to pass, but within float32's roundings."""
    weights = models.weights(depth=2, elimination_layers=(1,), template_size=32, search_size=64, dim=128, heads=2)
    device = torch.device("cpu")
    network = GpuNetwork(weights, device, torch.bfloat16, Kernels.of("triton"), True)
    found = fp8_checks.layer_errors(weights, fp8_checks.layers_of(NetworkFrame(network, *images(weights.config, 1, device))))
    assert found["ok"]
    assert found["in_a_line"] < 0.05
