"""The CUDA attention kernel's machine code, compiled here by nvcc for sm_80 and sm_90a."""

from __future__ import annotations

import re

import pytest

from benchmarks import sass
from tests.kernels import cubin
from tests.require import require

pytestmark = pytest.mark.cubin

SCORES = 64 * 16 // 32  # scores of one key tile that a thread computes
ROWS = {2: 32, 3: 48, 4: 64, 5: 80}
KINDS = ((32, True), (64, True), (64, False))


@pytest.fixture(scope="module", params=sass.ARCHITECTURES)
def compiled(request, tmp_path_factory):
    """(architecture, the cubin's file)"""
    for tool in ("nvcc", "cuobjdump"):
        require("nvcc", None if sass.find_tool(tool) else f"no {tool}")
    return request.param, sass.compile_kernels(request.param, tmp_path_factory.mktemp("cubin"))


@pytest.fixture(scope="module")
def facts(compiled):
    """(head dimension, attraction, warps of a half) -> facts"""
    found = {}
    for name, kernel in cubin.inspect(compiled[1]).items():
        if match := re.search(r"fda_forward_kernelILi(\d+)ELb([01])ELi(\d+)E", name):
            found[int(match[1]), match[2] == "1", int(match[3])] = kernel
    return found


def test_every_instance_is_there(facts):
    assert set(facts) == {(*kind, warps) for kind in KINDS for warps in ROWS}


def test_nothing_spills_and_registers_suffice(compiled, facts):
    for kernel in cubin.inspect(compiled[1]).values():
        assert kernel.stack == 0
        assert kernel.instructions["LDL"] + kernel.instructions["STL"] == 0
    for (_, _, warps), kernel in facts.items():
        blocks = 2 if warps <= 3 else 1  # csrc/attention/fda_sm80_layout.h, blocks_by_registers
        fullest = -(-2 * warps * blocks // 4)  # a multiprocessor's registers are four quarters, and warps are dealt to them in turn
        assert fullest * 32 * -(-kernel.registers // 8) * 8 <= 65536 // 4


def test_it_runs_on_matrix_units_with_asynchronous_copies(facts):
    for (head_dim, _, warps), kernel in facts.items():
        again = 8 * head_dim // 16 + 4  # q k^T and the sums of a tile that is done again
        norms = 2 * (head_dim // 16)  # of the queries
        assert kernel.instructions["HMMA"] == sass.products(head_dim) + again + norms
        passes = -(-64 * (head_dim // 8) // (32 * warps))  # of a half's threads over a tile's 16 bytes
        assert kernel.instructions["LDGSTS"] == 2 * 2 * passes  # keys and values, the first tile and the next


# Slots of the usual round, with room for another compiler: a round of Triton 3.6's own forward takes 592 to 658.
BOUNDS = {True: 470, False: 385}


def test_issue_slots_of_a_tile(compiled):
    architecture, path = compiled
    for (head_dim, attract, warps), code in sass.instances(path).items():
        usual = sass.usual(code, head_dim)
        assert usual.count("HMMA") == sass.products(head_dim)
        assert usual.count("MUFU") == SCORES * (2 if attract else 1)
        assert usual.count("BAR") == 1
        assert usual.count("LDSM") == 2 * 4 * (head_dim // 16)
        assert usual.slots <= BOUNDS[attract], (architecture, head_dim, attract, warps, usual.classes())
        assert sass.exact(code, head_dim).slots > usual.slots + 250  # another way altogether
