"""Compiling ahead: each launch of a frame is in one process's share, nothing is launched, and what reads fresh memory stays valid."""

from __future__ import annotations

import functools
import importlib.util
import json
import subprocess
import sys

import pytest
import torch

from benchmarks.gpu import fp8, frame, frame_tiles, inputs, products, warm
from engine.runners.gpu.network import GpuNetwork, Kernels
from esat_kernels import _triton
from tests.conftest import REPOSITORY
from tests.engine.runners.gpu import models
from tests.require import require


@pytest.fixture
def compiled(monkeypatch):
    """A frame of a small network on the CPU, by a Triton that only writes down what it is to compile."""
    require("triton", None if importlib.util.find_spec("triton") else "Triton is not installed")
    from triton.runtime.jit import JITFunction

    calls, launchers = [], []

    class Compiled:
        @property
        def run(self):
            launchers.append(self)

    def run(self, *arguments, grid, warmup, **options):
        assert warmup, "launched"
        calls.append(self.fn.__name__)
        return Compiled()

    monkeypatch.setattr(JITFunction, "run", run)
    monkeypatch.setattr(_triton, "unsupported", lambda *_, **__: None)

    network = GpuNetwork(inputs.small_weights(), torch.device("cpu"), torch.bfloat16, Kernels.of("triton"))
    monkeypatch.setattr(warm, "_network", lambda model: network)

    def frames(share, job=None):
        calls.clear()
        launchers.clear()
        with warm.compiling(share) as found:
            if job is not None:
                job()
            else:
                assert frame.WholeFrame(network, 2).eager().record.shape[0] == 2
        assert len(launchers) == len(calls)
        return list(calls), found

    return frames


def test_every_kernel_of_a_frame_is_compiled_once(compiled):
    calls, found = compiled(lambda name: True)
    assert len(calls) == len(found) == len(set(found))
    expected = {"crop_kernel", "product_kernel", "convolution_kernel", "forward_kernel", "scores_kernel", "eliminate_kernel"}
    assert expected | {"features_kernel", "advance_kernel"} <= set(calls)


def test_the_processes_shares_are_the_whole(compiled):
    everything = compiled(lambda name: True)[1]
    shares = [compiled(lambda name, worker=worker: warm.worker_of(name, 3) == worker)[1] for worker in range(3)]
    assert sorted(name for share in shares for name in share) == sorted(everything)
    assert all(shares)


def test_fresh_memory_is_fresh_again_behind_it(compiled):
    before = torch.empty, torch.empty_like, torch.Tensor.new_empty
    compiled(lambda name: False)
    assert before == (torch.empty, torch.empty_like, torch.Tensor.new_empty)


def test_a_frame_around_the_cuda_attention_is_compiled_without_it(compiled):
    """Its products leave the norms of the keys; attention itself is not called."""
    calls, found = compiled(lambda name: True, lambda: warm._around_cuda("small", 1))
    assert {"product_kernel", "eliminate_kernel", "features_kernel"} <= set(calls)
    assert not {"forward_kernel", "scores_kernel"} & set(calls)
    groups = {name for name in found if name.startswith("product_kernel") and "('GROUPS', 0)" not in name}
    assert len(groups) == 1
    both = compiled(lambda name: True, lambda: warm._frames("small"))[1]
    assert groups < set(both)
    assert any(name.startswith("forward_kernel") for name in both)


def test_the_fastest_tiles_of_each_product_are_compiled_with_what_surrounds_them(compiled, tmp_path, monkeypatch):
    """Of each place by speed, as they are launched now, and launched before the one in front is done."""
    keys = [shape.key for shape in _shapes(monkeypatch)]
    tiles = ([64, 64, 64, 1, 4, 4, False], [16, 64, 128, 1, 4, 4, False])
    rows = [
        {"operation": "linear", "key": key, "tiles": own, "ok": True, "median_us": 5.0 + place}
        for key in keys
        for place, own in enumerate(tiles)
    ]
    path = tmp_path / "gpu_products.json"
    path.write_text(json.dumps({"rows": rows}))
    monkeypatch.setattr(_triton._device, "has_dependent_launches", lambda device: True)
    for place, own in enumerate(tiles):
        _, found = compiled(lambda name: True, functools.partial(warm._tiles, "small", place, path, True))
        own_tiles = [name for name in found if name.startswith("product_kernel") and f"('BLOCK_M', {own[0]})" in name]
        for dependent in (False, True):
            launched = [name for name in own_tiles if f"('DEPENDENT', {dependent})" in name]
            kinds = {(name.split("('GROUPS', ")[1][0], name.split("('LEFT_WIDTH', ")[1][0]) for name in launched}
            assert len(kinds) == 3  # alone, with the norms of the keys, with what the next product needs
    assert set(warm.jobs("--tiles", tmp_path)) == {f"{model} {place}" for model in ("esat-384", "esat-s-256") for place in range(3)}


def test_eight_bit_products_are_compiled_for_both_ways_of_launching(compiled, monkeypatch):
    """Every tile, and a frame: part `dependent` measures one with whichever tiles part `fp8` has found."""
    wide = models.weights(dim=128, heads=2, depth=2, elimination_layers=(1,), template_size=32, search_size=64)
    monkeypatch.setattr(fp8, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(fp8, "model_weights", lambda name: wide)
    monkeypatch.setattr(fp8, "frame_products", lambda model: [fp8.Product("mlp_in", 21, 128, 256)])
    monkeypatch.setattr(_triton._device, "has_dependent_launches", lambda device: True)
    _, found = compiled(lambda name: True, warm._fp8)
    for kernel in ("fp8_product_kernel", "product_kernel", "eliminate_kernel"):
        ways = [[name for name in found if name.startswith(f"{kernel} ") and f"('DEPENDENT', {way})" in name] for way in (False, True)]
        assert len(ways[0]) == len(ways[1]) > 0, kernel
    heights = {tiles.block_m for tiles in fp8.tiling.candidates(128, fp8.fp8.E4M3)}
    assert len(heights) > 1
    for height in heights:
        assert any(
            name.startswith("fp8_product_kernel") and f"('BLOCK_M', {height})" in name and "('DEPENDENT', True)" in name for name in found
        )


def _shapes(monkeypatch):
    monkeypatch.setattr(products, "preset", lambda name: inputs.small_weights().config)
    return products.frame_shapes("small")


def test_launches_are_counted_by_the_problems_whose_tiles_are_asked_for(compiled, monkeypatch):
    """Every one that `products` measures, as often as a frame has it."""
    counted = {}
    whole = []
    compiled(lambda name: False, lambda: whole.append(frame.WholeFrame(warm._network("small"), 1)))
    compiled(lambda name: False, lambda: counted.update(frame_tiles.launches(whole[0].eager)))
    linear = {key: count for (operation, key), count in counted.items() if operation == "linear"}
    assert set(linear) == {shape.key for shape in _shapes(monkeypatch)}
    depth = inputs.small_weights().config.depth
    assert sum(linear.values()) == 1 + 4 * depth
    assert sum(count for (operation, _), count in counted.items() if operation == "attention") == depth


def test_the_process_that_starts_the_others_does_without_pytorch():
    """Its import takes seconds, in front of theirs."""
    code = "import sys; from benchmarks.gpu import warm; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
