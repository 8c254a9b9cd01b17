"""The CUDA attention kernel's machine code, compiled here by nvcc for sm_80 and sm_90a."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from tests.conftest import REPOSITORY
from tests.kernels import cubin
from tests.require import require

pytestmark = pytest.mark.cubin

SCORES = 64 * 16 // 32  # scores of one key tile that a thread computes; the loop over the tiles is not unrolled


@pytest.fixture(scope="module", params=["80", "90a"])
def kernels(request, tmp_path_factory):
    """(architecture, {(dtype, head_dim, attract): facts})"""
    require("nvcc", None if shutil.which("nvcc") else "nvcc is not on the PATH")
    require("nvcc", None if cubin.find_tool("cuobjdump") else "no cuobjdump")
    path = tmp_path_factory.mktemp("cubin") / "attention.cubin"
    source = REPOSITORY / "csrc" / "attention" / "attention_sm80.cu"
    code = f"-gencode=arch=compute_{request.param},code=sm_{request.param}"
    subprocess.run(["nvcc", "-std=c++17", "-O3", f"-I{REPOSITORY / 'csrc'}", code, "-cubin", "-o", path, source], check=True, timeout=600)
    found = {}
    for name, facts in cubin.inspect(path).items():
        match = re.search(r"fda_forward_kernelINS_4sm80\d(Bf16|F16)ELi(\d+)ELb([01])E", name)
        if match:
            found[match[1], int(match[2]), match[3] == "1"] = facts
    return request.param, found


def test_every_instance_is_there(kernels):
    _, found = kernels
    assert set(found) == {(dtype, d, True) for dtype in ("Bf16", "F16") for d in (32, 64, 96, 128)} | {
        ("Bf16", 64, False),
        ("F16", 64, False),
    }


def test_registers_suffice(kernels):
    _, found = kernels
    for (_, head_dim, _), facts in found.items():
        threads = 320 if head_dim <= 64 else 256
        assert facts.stack == 0
        assert facts.instructions["LDL"] + facts.instructions["STL"] == 0
        warps = -(-threads // 32 // 4)  # a multiprocessor's registers are four quarters, and a block's warps are dealt to them in turn
        assert warps * 32 * -(-facts.registers // 8) * 8 <= 65536 // 4


def test_it_runs_on_matrix_units_with_asynchronous_copies(kernels):
    _, found = kernels
    for (_, head_dim, _), facts in found.items():
        products = 2 * (head_dim // 16) * (64 // 8)  # Q K^T and P V of one key tile
        norms = 2 * 2 * (head_dim // 16)  # of the queries and of 16 keys
        assert facts.instructions["HMMA"] == products + norms
        assert facts.instructions["LDGSTS"] > 0
        assert facts.instructions["LDSM"] >= (head_dim // 16) * (4 + 4)


def test_exponentials_per_score(kernels):
    architecture, found = kernels
    rescaling = 2 + 4  # per tile, and in the merge
    for (dtype, _, attract), facts in found.items():
        polynomial = SCORES // 2 if (architecture, dtype) == ("90a", "Bf16") else 0
        attraction = SCORES - polynomial if attract else 0
        assert facts.instructions["MUFU.EX2"] == SCORES + attraction + rescaling
