"""The launches of a captured frame as the engine's code makes them."""

from __future__ import annotations

import collections
from importlib.util import find_spec

import pytest

from benchmarks.nodes import Node, frame_nodes, table
from engine.config import preset
from tests.engine.runners.gpu import models
from tests.require import require


@pytest.fixture(autouse=True)
def _triton():
    require("triton", None if find_spec("triton") else "Triton is not installed")


def test_a_frame_of_the_paper_s_model():
    """Its budget: what a change adds to a frame is seen here."""
    nodes = frame_nodes(preset("esat-384"))
    kernels = collections.Counter(node.kernel for node in nodes)
    assert kernels["attention (CUDA)"] == 12
    assert kernels["product_kernel"] == 49  # four of each layer, and the patch embedding
    assert kernels["normalise_kernel"] == 0  # the products around a LayerNorm carry it out
    assert kernels["copy_"] == 0
    assert kernels["eliminate_kernel"] == 3
    assert kernels["sum_kernel"] == 9
    assert [node.kernel for node in nodes if node.stage == "decode"] == ["advance_kernel"]  # the maximum, and all behind it
    assert [node.kernel for node in nodes if node.stage == "head"] == ["features_kernel", *["convolution_kernel"] * 4]
    assert len(nodes) == BUDGET


BUDGET = 80


def test_the_triton_attention_takes_a_launch_more_where_tokens_are_eliminated():
    cuda, triton = (frame_nodes(models.SMALL, backend=backend) for backend in ("cuda", "triton"))
    assert len(triton) - len(cuda) == len(models.SMALL.elimination_layers)
    assert [node.stage for node in triton if node.kernel == "scores_kernel"] == ["attention"] * 2


def test_targets_and_streams():
    """More targets in a video are the same launches; another video has a crop and a step of its own, and their records are joined."""
    one, many, streams, beside = (
        collections.Counter(node.kernel for node in frame_nodes(models.SMALL, targets=targets, beside=beside))
        for targets, beside in (((1,), False), ((3,), False), ((1, 1), False), ((1,), True))
    )
    assert {name: many[name] - one[name] for name in many if many[name] != one[name] and name.endswith("kernel")} == {}
    for counts in (streams, beside):  # a target's second region is a batch of its own in the crop too
        assert counts["crop_kernel"] == counts["advance_kernel"] == 2
        assert counts["cat"] == 2


def test_the_table_sums_up():
    nodes = [Node("crop", "crop_kernel"), Node("head", "relu_"), Node("head", "maps_kernel"), Node("head", "relu_")]
    assert table(nodes).splitlines()[2:] == ["| crop | 1 | crop_kernel |", "| head | 3 | 2 relu_, maps_kernel |", "| sum | 4 |  |"]
