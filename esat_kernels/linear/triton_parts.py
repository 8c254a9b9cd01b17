# mypy: disallow-untyped-defs=False
# ruff: noqa: N803  (the compile-time arguments of a Triton kernel are written in capitals)
"""How the parts of a split inner dimension meet within one launch: each is written to memory, and the program that is last to do so adds them.

No program waits for another, so any number of them may be resident. The sum is in the order of the parts, whoever is last: the same bits as
`sum_kernel`'s.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def last_to_arrive(counter_ptr, SPLITS: tl.constexpr):
    """Whether the other SPLITS - 1 programs of this counter (int32, 0 before the launch) have come here: true in one of them. What they wrote before
    may be read behind it. The counter is 0 again when the launch is done.
    """
    tl.debug_barrier()  # one thread's release publishes what all threads of the program have written
    before = tl.atomic_add(counter_ptr, 1, sem="acq_rel", scope="gpu")
    tl.debug_barrier()  # and its acquire is in front of what they read
    last = before == SPLITS - 1
    tl.store(counter_ptr, 0, mask=last)
    return last


@triton.jit
def add_parts(own_sums, own, parts_ptr, at, inside, size, SPLITS: tl.constexpr):
    """Two or three parts, float32 of `size` elements each, at offsets `at` where `inside`, in their order; part `own` is own_sums, not read.

    They are read from the L2 cache: a multiprocessor's own cache may hold what another one has overwritten.
    """
    tl.static_assert(SPLITS == 2 or SPLITS == 3)
    first = tl.load(parts_ptr + tl.where(own == 0, 1, 0) * size + at, mask=inside, other=0.0, cache_modifier=".cg")
    sums = own_sums + first  # the order of two does not matter
    if SPLITS == 3:
        last = tl.load(parts_ptr + tl.where(own == 2, 1, 2) * size + at, mask=inside, other=0.0, cache_modifier=".cg")
        sums = tl.where(own == 2, first + last, sums) + tl.where(own == 2, own_sums, last)
    return sums
