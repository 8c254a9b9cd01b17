"""The eight-bit products on a CUDA device: the same cases as in the interpreter, and every tile at the shapes of a frame."""

from __future__ import annotations

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

import esat_kernels
from benchmarks.gpu import fp8 as part
from benchmarks.gpu.inputs import full_float32
from tests.kernels.triton_fp8_cases import *  # noqa: F403
from tests.require import require

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def _fp8_here():
    require("triton", esat_kernels.backends()["triton"])
    require("fp8", esat_kernels.fp8_unsupported(torch.device("cuda")))


@pytest.mark.parametrize("product", part.frame_products("esat-s-256"), ids=lambda product: f"{product.name} {product.key}")
def test_every_tile_of_the_smaller_model(product):
    """The larger one's are checked where they are timed (`benchmarks.gpu.fp8`)."""
    full_float32()
    assert [row for row in part.rows_of(product, timed=False, device=part.DEVICE) if not row["ok"]] == []
