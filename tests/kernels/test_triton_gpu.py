"""The Triton kernels on a CUDA device: the same cases as in the interpreter."""

from __future__ import annotations

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

from tests.kernels.triton_cases import *  # noqa: F403
from tests.kernels.triton_frame_cases import *  # noqa: F403

pytestmark = pytest.mark.gpu
