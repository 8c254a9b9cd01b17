"""The engine on Triton's kernels, without a GPU: the interpreter needs its variable before Triton is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

from tests.conftest import REPOSITORY
from tests.require import require


def test_a_frame_on_the_triton_kernels_equals_the_reference():
    require("triton", None if find_spec("triton") else "Triton is not installed")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/engine/runners/gpu/interpreted_cases.py"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "4 passed" in done.stdout
