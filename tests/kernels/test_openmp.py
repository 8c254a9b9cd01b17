"""One OpenMP runtime and one pool of threads in the process: PyTorch's."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from esat_kernels import _native
from tests.require import require

PROGRAM = """
from pathlib import Path
import esat_kernels, torch
from esat_kernels import _native
library = _native.library()
runtimes = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()
            if any(name in line.rsplit("/", 1)[-1] for name in ("libgomp", "libomp", "libiomp"))}
print(len(runtimes), *runtimes)
for threads in (1, 2, 3):
    torch.set_num_threads(threads)
    print(library.max_threads())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_one_runtime_and_pytorch_s_thread_count() -> None:
    require("cpu", _native.unavailable())
    if _native.library().build_info["openmp"] != "on":
        require("openmp", f"the library was built without OpenMP: {_native.library().build_info['openmp']}")
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    first, *threads = done.stdout.splitlines()
    assert first.startswith("1 "), f"more than one OpenMP runtime: {first}"
    assert threads == ["1", "2", "3"]
