"""The frame benchmark: inaccurate rows get no time, and every row has what the contract names."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from benchmarks import frame, memory, roofline
from benchmarks.peers.frame import Answer, Implementation, build, ours, patch_rows, torch_network
from conformance import golden
from engine.config import preset
from engine.errors import ConfigError
from tests.networks import TINY
from tests.require import require

CONFIG = TINY.replace(dim=64, depth=4, template_size=64, search_size=96, head_channels=32)


@pytest.fixture(scope="module")
def weights():
    return golden.draw_weights(CONFIG, 3, 1.0, Path("tiny"))


def _implementation(score: torch.Tensor, kept: list[int], calls: list[str], dtype: str = "fp32", impl: str = "peer") -> Implementation:
    answer = Answer(score, torch.tensor(kept))
    return Implementation(impl, dtype, lambda: calls.append("run"), lambda: answer)


def test_an_inaccurate_implementation_gets_no_time():
    score = torch.rand(4, 4, generator=torch.Generator().manual_seed(1))
    reference = Answer(score, torch.arange(10))
    good, bad_map, bad_tokens = [], [], []
    built = [
        _implementation(score, list(range(10)), good),
        _implementation(score.flip(0), list(range(10)), bad_map),
        _implementation(score, list(range(5, 15)), bad_tokens, "bf16"),
    ]
    rows = frame._rows("network", built, reference, 0.0)
    assert [row["ok"] for row in rows] == [True, False, False]
    assert ["median_ms" in row for row in rows] == [True, False, False]
    assert len(good) >= 10
    assert not bad_map
    assert not bad_tokens
    assert rows[2]["kept_overlap"] == 0.5


def test_times_are_compared_within_a_dtype():
    wanted = [("ours", "int8"), ("ours", "bf16"), ("peer", "bf16"), ("peer", "fp32")]
    built = [_implementation(torch.zeros(1), [0], [], dtype, impl) for impl, dtype in wanted]
    rows = frame._rows("tracker", built, None, 0.0)
    assert rows[2]["ratio_to_ours"] == rows[2]["median_ms"] / rows[1]["median_ms"]
    assert [row["ratio_to_ours"] is None for row in rows] == [False, False, False, True]
    columns = frame._table([{**row, "model": "tiny", "threads": 1} for row in rows]).columns
    assert list(columns[6].cells)[-1] == ""


def test_peers_compute_the_same_network(weights):
    template, search = golden.draw_images(CONFIG.template_size, CONFIG.search_size, 3)
    reference = torch_network(weights, template, search, "fp32").answer()
    for dtype in frame._dtypes(weights):
        assert frame.check(ours(weights, template, search, dtype).answer(), reference, dtype)[0]
    other = golden.draw_weights(CONFIG, 4, 1.0, Path("other"))
    assert not frame.check(ours(other, template, search, "bf16").answer(), reference, "bf16")[0]


@pytest.mark.peers
def test_openvino_in_int8_computes_the_same_network(weights, tmp_path):
    for module in ("onnx", "onnxscript", "openvino", "nncf"):
        require("peers", None if importlib.util.find_spec(module) else f"no {module}")
    template, search = golden.draw_images(CONFIG.template_size, CONFIG.search_size, 3)
    (peer,) = build(["openvino-int8"], weights, template, search, 1, tmp_path)
    assert (peer.impl, peer.dtype) == ("openvino", "int8")
    assert b"FakeQuantize" in (tmp_path / "tiny-int8.xml").read_bytes()
    assert frame.check(peer.answer(), torch_network(weights, template, search, "fp32").answer(), "int8")[0]


@pytest.mark.peers
def test_a_peer_is_named_by_the_dtype_that_it_computes_in(weights, tmp_path):
    for module in ("onnx", "onnxscript", "openvino"):
        require("peers", None if importlib.util.find_spec(module) else f"no {module}")
    template, search = golden.draw_images(CONFIG.template_size, CONFIG.search_size, 3)
    exact, asked = build(["openvino"], weights, template, search, 1, tmp_path, ["fp32", "bf16"])
    assert exact.dtype == "fp32"
    different = bool((asked.answer().score_map != exact.answer().score_map).any())
    assert asked.dtype == ("bf16" if different else "fp32")


def test_rows_have_what_the_contract_names(weights, tmp_path):
    rows = frame.measure(weights, ["eager"], 0.0, tmp_path)
    dtypes = frame._dtypes(weights)
    assert {(row["impl"], row["scope"], row["dtype"]) for row in rows} >= {
        *(("ours", "network", dtype) for dtype in dtypes),
        ("ours:alpha=beta=0", "network", dtypes[0]),
        *(("eager", "network", dtype) for dtype in dtypes if dtype != "int8"),
        ("eager", "tracker", "fp32"),
    }
    for row in rows:
        assert {"impl", "scope", "dtype", "device", "ok"} <= row.keys()
        if row["ok"]:
            assert {"median_ms", "p99_ms", "fps", "ratio_to_ours"} <= row.keys()


def test_a_machine_s_rates_are_measured_however_short_the_time():
    assert all(0 < rate < float("inf") for rate in roofline.machine_rates("int8", 0.0).values())


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
def test_stages_and_their_roofline(weights, dtype):
    spent = frame.stages(weights, 0.0, dtype) if dtype in frame._dtypes(weights) else {}
    if spent:
        assert set(spent) == {"embed", "layers", "attention", "elimination", "head"}
        found = roofline.roofline(weights, dtype, spent, 0.01)
        assert set(found["stages"]) == set(spent) - {"elimination"}
        for stage, row in found["stages"].items():
            unknown = stage == "layers" and found["machine"].get("int8_flops_per_s", 1e30) <= found["machine"]["flops_per_s"]
            assert row["share"] is None if unknown else row["share"] > 0


def test_the_paper_model_needs_the_flops_that_the_closed_form_counts():
    """54.09 GMACs of every product, less what the engine leaves out: the template's patch embedding and first q, k, v, the last layer's
    template rows after attention, and the offset and size branches away from one cell."""
    config = preset("esat-384")
    weights = golden.draw_weights(config, 3, 1.0, Path("esat-384"))
    flops = sum(work[0] for work in roofline.stage_work(weights, "fp32").values())
    template = config.num_template * config.dim
    left_out = template * (768 + 3 * config.dim) + template * 9 * config.dim
    maps = 2 * sum(weights.state_dict[f"box_head.conv{n}_size.0.weight"].numel() for n in range(1, 5)) * config.num_search
    assert flops / 2 == pytest.approx(54.09e9 - left_out - maps, rel=2e-3)


def test_memory_is_measured(weights):
    row = memory.measure(weights, 3, "fp32")
    assert 0 < row["start_mb"] <= row["peak_mb"]
    assert 0 < row["warm_mb"] <= row["peak_mb"]
    assert row["frames"] == 3


def test_patch_rows_are_those_of_a_convolution_weight():
    image = torch.arange(3 * 32 * 32, dtype=torch.float32).view(1, 3, 32, 32) % 251
    rows = patch_rows(image, torch.float32)
    assert rows.shape == (4, 768)
    assert rows[3, 2 * 256 + 5 * 16 + 7] == image[0, 2, 16 + 5, 16 + 7]


@pytest.mark.parametrize(
    ("arguments", "message"), [({"device": "cuda"}, "--device"), ({"peers": "eager,trt"}, "trt"), ({"model": "no"}, "no")]
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        frame.main(**{"peers": "none", "threads": 1, **arguments})
