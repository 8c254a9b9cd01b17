"""The launches of a captured frame as the engine's code makes them."""

from __future__ import annotations

import collections
from importlib.util import find_spec

import pytest
import torch

from benchmarks.nodes import Node, budget, budget_table, frame_nodes, table
from engine.config import preset
from esat_kernels.linear.triton_tiles import product_tiles
from tests.conftest import REPOSITORY
from tests.engine.runners.gpu import models
from tests.require import require


@pytest.fixture(autouse=True)
def _triton():
    require("triton", None if find_spec("triton") else "Triton is not installed")


def test_a_frame_of_the_paper_s_model():
    """Its budget: what a change adds to a frame is seen here."""
    config = preset("esat-384")
    nodes = frame_nodes(config)
    expected = ["crop_kernel", "product_kernel", "product_kernel"]  # the patches, and their q, k and v: each into the frame's memory
    counts = config.search_tokens_per_layer()
    for layer, count in enumerate(counts):
        last = layer == config.depth - 1
        rows = count if last else config.num_template + count
        tiles = product_tiles(rows, 4 * config.dim, config.dim, torch.bfloat16, torch.bfloat16, 132)
        expected += ["key norms (CUDA)"] * (layer == 0)  # the others come from the product
        expected += ["attention (CUDA)", *["scores (CUDA)", "eliminate_kernel"] * (layer in config.elimination_layers)]
        expected += [
            *["product_kernel"] * 3,
            *["sum_kernel"] * (tiles.splits > 1 and not tiles.joined),
        ]  # the LayerNorm between them is algebra
        expected += [] if last else ["product_kernel"]
    expected += ["features_kernel", *["convolution_kernel"] * 4]  # the maps in the last one's
    expected += ["advance_kernel"]  # the maximum, and all behind it
    assert [node.kernel for node in nodes] == expected
    assert collections.Counter(expected)["sum_kernel"] == 3
    assert len(nodes) == BUDGET


BUDGET = 78


def test_fp8_adds_no_launch():
    """Projection and MLP leave their eight bits in their epilogues."""
    half, eight = (frame_nodes(preset("esat-384"), dtype=dtype) for dtype in ("bf16", "fp8"))
    assert len(eight) == len(half) - 2 == BUDGET - 2  # one split product instead of three
    counts = collections.Counter(node.kernel for node in eight)
    assert counts["fp8_product_kernel"] == 3 * 12
    assert counts["product_kernel"] == 13  # the patches, and q, k and v
    around = [node for node in eight if not node.kernel.startswith(("fp8_", "sum"))]
    assert around == [node for node in half if node.stage != "projection and MLP"]
    config = preset("esat-384")
    assert budget(config, 84, "fp8")["MLP"][1] == budget(config, 84)["MLP"][1] / 2
    us = sum(us for _, us in budget(config, len(eight), "fp8").values())
    assert f"becomes {us:.0f} us, {len(eight)} launches" in " ".join((REPOSITORY / "docs" / "gpu.md").read_text().split())


def test_both_attentions_take_a_launch_more_where_tokens_are_eliminated():
    cuda, triton = (frame_nodes(models.SMALL, backend=backend) for backend in ("cuda", "triton"))
    assert len(cuda) - len(triton) == 1  # the first layer's key norms, which the CUDA kernel wants
    for nodes, name in ((triton, "scores_kernel"), (cuda, "scores (CUDA)")):
        assert [node.stage for node in nodes if node.kernel == name] == ["attention"] * len(models.SMALL.elimination_layers)


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


def test_the_budget_follows_from_the_shapes():
    found = budget(preset("esat-384"), BUDGET)
    gmac = {name: round(value, 1) for name, (value, _) in found.items() if value}
    assert gmac == {"q, k, v": 11.2, "output projection": 3.5, "MLP": 28.2, "attention": 5.8, "head": 3.7, "patch embedding": 0.3}
    assert found["q, k, v"][1] == pytest.approx(2 * found["q, k, v"][0] / 395e-3, rel=1e-6)
    assert found["starts and ends of 78 kernels"] == (0.0, 78.0)
    assert budget_table({"a": (1.0, 400.0), "b": (0.0, 100.0)}).splitlines()[2:] == [
        *("| a | 1.0 | 400 |", "| b |  | 100 |", "| sum | 1.0 | 500, or 2000 frames/s |")
    ]
