"""Every tile that the Triton products and attention may take, at the shapes that a frame has, on a CUDA device."""

from __future__ import annotations

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

from benchmarks.gpu import products
from benchmarks.gpu.inputs import full_float32
from engine.config import preset
from esat_kernels import _triton
from tests.kernels.triton_device import nan_in_fresh_memory as nan_in_fresh_memory  # a fixture of every test here
from tests.require import require

pytestmark = pytest.mark.gpu
SHAPES = [shape for model in products.MODELS for shape in products.frame_shapes(model)]
HEADS = sorted(
    (tokens, preset(model).heads, preset(model).head_dim)
    for model in products.MODELS
    for tokens in {shape.rows for shape in products.frame_shapes(model) if shape.columns == 3 * preset(model).dim}
)


@pytest.fixture(scope="module", autouse=True)
def _triton_here():
    require("triton", _triton.unavailable())
    full_float32()


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.key)
def test_every_tile_of_a_product(shape):
    operands = shape.operands()
    wrong = [tiles for tiles in shape.candidates() if not shape.right(shape.run(*operands, tiles), *operands)]
    assert not wrong


@pytest.mark.parametrize(("tokens", "heads", "head_dim"), HEADS)
def test_every_tile_of_attention(tokens, heads, head_dim):
    candidates = products.attention_problem(tokens, heads, head_dim).candidates
    assert [tiles for tiles, (right, _) in candidates.items() if not right()] == []
