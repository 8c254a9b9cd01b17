"""Where the cases of the Triton kernels run: on a GPU, or on CPU tensors in Triton's interpreter, which then computes as a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from esat_kernels import testing

INTERPRETED = not torch.cuda.is_available()
DEVICE = "cpu" if INTERPRETED else "cuda"
BFLOAT16, FLOAT16, FLOAT32 = torch.bfloat16, torch.float16, torch.float32

if INTERPRETED:
    from tests.kernels.interpreter import compute_as_a_gpu

    compute_as_a_gpu()


@pytest.fixture(autouse=True)
def nan_in_fresh_memory():
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def device(*tensors: Tensor) -> list[Tensor]:
    return [testing.move(tensor, DEVICE) for tensor in tensors]


def equal(result: Tensor, expected: Tensor) -> bool:
    """Same bits, NaN at the same places."""
    return result.dtype == expected.dtype and torch.equal(result.nan_to_num(nan=-7e7), expected.nan_to_num(nan=-7e7))
