"""The CUDA attention kernels' machine code, compiled here by nvcc for sm_80 and sm_90a."""

from __future__ import annotations

import re

import pytest

from benchmarks import sass
from tests.kernels import cubin
from tests.require import require

pytestmark = pytest.mark.cubin

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
        assert usual.count("MUFU") == sass.SCORES * (2 if attract else 1)
        assert usual.count("BAR") == 1
        assert usual.count("LDSM") == 2 * 4 * (head_dim // 16)
        assert usual.slots <= BOUNDS[attract], (architecture, head_dim, attract, warps, usual.classes())
        assert sass.exact(code, head_dim).slots > usual.slots + 250  # another way altogether


HOPPER_INSTANCES = {(attract, groups) for attract in (True, False) for groups in (2, 3)}
HOPPER_BOUNDS = {True: 345, False: 200}  # slots


@pytest.fixture(scope="module")
def hopper(tmp_path_factory):
    """The Hopper kernel's cubin."""
    for tool in ("nvcc", "cuobjdump"):
        require("nvcc", None if sass.find_tool(tool) else f"no {tool}")
    return sass.compile_kernels("90a", tmp_path_factory.mktemp("cubin"), "attention_sm90")


def test_the_hopper_kernel_s_products_run_on_their_own(hopper):
    """Where the compiler cannot prove that nothing touches a product's registers, it waits behind each one."""
    kernels = cubin.inspect(hopper)
    assert len(kernels) == len(HOPPER_INSTANCES)
    for kernel in kernels.values():
        assert kernel.stack == 0
        assert kernel.instructions["LDL"] + kernel.instructions["STL"] == 0
        assert kernel.instructions["HGMMA"] == 4 + 4 + 4  # of the loop, and the last product with values
        assert kernel.instructions["WARPGROUP"] == 2 + 3  # fences, and waits of the source
        assert kernel.instructions["USETMAXREG"] == 2
        assert kernel.instructions["UTMALDG"] >= 4
        assert kernel.instructions["LDGSTS"] == 0


def test_the_hopper_kernel_s_memory_starts_where_the_swizzle_repeats(hopper):
    found = re.findall(r"^(?:\s+\w+){4}\s+(\w+)\s+NOBITS.*\s\.nv\.shared\._Z", cubin.run_tool("cuobjdump", "-elf", hopper), re.MULTILINE)
    assert [int(alignment, 16) for alignment in found] == [1024] * len(HOPPER_INSTANCES)


def test_the_hopper_kernel_s_issue_slots(hopper):
    instances = sass.hopper_instances(hopper)
    assert set(instances) == HOPPER_INSTANCES
    for (attract, groups), code in instances.items():
        usual, again = sass.hopper_rounds(code, attract)
        assert usual.count("HGMMA") == 8
        assert usual.count("HMMA") == 4
        assert usual.count("BAR") == 0
        assert usual.slots <= HOPPER_BOUNDS[attract], (attract, groups, usual.classes())
        assert again.slots > usual.slots + 250


def test_other_architectures_carry_no_code_of_the_hopper_kernel(tmp_path):
    for tool in ("nvcc", "cuobjdump"):
        require("nvcc", None if sass.find_tool(tool) else f"no {tool}")
    for kernel in cubin.inspect(sass.compile_kernels("80", tmp_path, "attention_sm90")).values():
        assert kernel.instructions["MUFU"] + kernel.instructions["HMMA"] == 0


def test_the_kernels_around_spill_nothing(tmp_path):
    for tool in ("nvcc", "cuobjdump"):
        require("nvcc", None if sass.find_tool(tool) else f"no {tool}")
    kernels = cubin.inspect(sass.compile_kernels("80", tmp_path, "attention_steps"))
    assert len(kernels) == 3
    for kernel in kernels.values():
        assert kernel.stack == 0
        assert kernel.instructions["LDL"] + kernel.instructions["STL"] == 0
