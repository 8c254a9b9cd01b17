"""Hazards of Hopper's asynchronous matrix instructions that Triton may leave in a kernel."""

from __future__ import annotations

import re


def hazards(ttgir: str, num_stages: int) -> list[str]:
    """What may be written while a matrix instruction still reads it. ttgir: Triton's code of one kernel for sm_90; others have no such operations.

    - A tile of a loop whose product has not been waited for when the next copies start: it needs a buffer for each of the pipeline's stages.
      Triton 3.6 to 3.9 make one too few where two products read the same tile.
    - Registers of a left operand whose product is waited for only in part: the next iteration may compute into them (mended after Triton 3.6).
    """
    buffers: dict[str, tuple[str, int]] = {}  # value -> the allocation that it is a view of, its number of buffers
    reading: set[str] = set()
    found = []
    from_registers = False
    for line in ttgir.splitlines():
        match = re.match(r"\s*(%\w+)(?::\d+)? = (\S+) ?(.*)", line)
        if match is None:
            continue
        result, operation, rest = match.groups()
        operands = re.findall(r"%\w+", rest.split(" : ")[0])
        if operation == "ttg.local_alloc" and not operands:
            buffers[result] = (result, int(re.search(r"memdesc<(\d+)x", rest)[1]))  # type: ignore[index]
        elif operation in ("ttg.memdesc_index", "ttg.memdesc_trans", "ttg.memdesc_subslice") and operands[0] in buffers:
            buffers[result] = buffers[operands[0]]
        elif operation == "ttng.warp_group_dot":
            reading |= {operand for operand in operands[:2] if operand in buffers}
            from_registers = "dot_op" in rest
        elif operation == "ttng.warp_group_dot_wait" and "pendings = 0" in rest:
            reading.clear()
        elif operation == "ttng.warp_group_dot_wait" and from_registers:
            found.append(f"registers: {line.strip()[:120]}")
        elif operation == "ttg.async_copy_global_to_local" and operands[1] in buffers:
            target, count = buffers[operands[1]]
            found += [
                f"{operand} is overwritten in {target}"
                for operand in sorted(reading)
                if buffers[operand][0] == target and count < num_stages
            ]
    return found
