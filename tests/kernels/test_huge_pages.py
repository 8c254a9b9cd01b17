"""The memory of packed weights and activations: one process's own, and offered huge pages."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from esat_kernels.linear.packing import huge_zeros
from tests.conftest import REPOSITORY

FORKED = """
import os, torch
from esat_kernels.linear.packing import huge_zeros
memory = huge_zeros((1000, 1000), torch.float32)
child = os.fork()
if child == 0:
    memory.fill_(1.0)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert (memory == 0).all(), "what the child wrote is here"
"""


def test_a_forked_process_has_its_own():
    """Trackers of two processes would write into one another's activations."""
    subprocess.run([sys.executable, "-c", FORKED], check=True, cwd=REPOSITORY, timeout=100)


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="no transparent huge pages")
def test_it_is_private_and_may_be_in_huge_pages():
    """Of smaps' VmFlags, "hg" is MADV_HUGEPAGE and "sh" memory that is shared, which gets none unless shmem_enabled says so."""
    memory = huge_zeros((3 << 20,), torch.uint8)
    assert memory.data_ptr() % (2 << 20) == 0
    assert {"hg", "sh"} & _flags(memory.data_ptr()) == {"hg"}
    for rest in (memory[2 << 20 :], huge_zeros((1 << 20,), torch.uint8)):  # a huge page of which half is used
        assert not {"hg", "sh"} & _flags(rest.data_ptr())


def _flags(address: int) -> set[str]:
    mappings = re.finditer(r"^([0-9a-f]+)-([0-9a-f]+) (?:.*\n)+?VmFlags: (.*)$", Path("/proc/self/smaps").read_text(), re.MULTILINE)
    return next(set(found[3].split()) for found in mappings if int(found[1], 16) <= address < int(found[2], 16))
