"""Compiles GPU kernels without a GPU and reads the machine code."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.sass import find_tool
from tests.kernels import wgmma

FLOATS = {"alpha": "fp32", "beta": "fp32", "delta": "fp32", "scale": "fp32"}
FLOAT32_POINTERS = ("lse_ptr", "row_ptr", "scores_ptr")
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}  # bytes that one block can have


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What the machine code says. `instructions` counts opcodes (without modifiers) and "MUFU.EX2"; `loop_free` if there is no loop."""

    registers: int
    stack: int
    shared: int
    instructions: Counter[str]


def inspect(cubin: bytes | Path) -> dict[str, Kernel]:
    """Kernel name -> facts, from a cubin (or a fatbin's file)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin if isinstance(cubin, bytes) else cubin.read_bytes())
        usage = run_tool("cuobjdump", "-res-usage", path)
        sass = run_tool("cuobjdump", "-sass", path)
    kernels = {}
    for name, body in re.findall(r"Function (\S+):\n\s+(REG:.*)", usage):
        fields = dict(re.findall(r"(\w+):(\d+)", body))
        code = re.search(rf"Function : {re.escape(name)}\n(.*?)(?=\n\s*Function :|\Z)", sass, re.DOTALL)
        opcodes = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)", code.group(1) if code else "", re.MULTILINE)
        counts = Counter(opcode.split(".")[0] for opcode in opcodes)
        counts["MUFU.EX2"] = sum(opcode.startswith("MUFU.EX2") for opcode in opcodes)
        kernels[name] = Kernel(int(fields["REG"]), int(fields["STACK"]), int(fields["SHARED"]), counts)
    return kernels


def run_tool(tool: str, *arguments: object) -> str:
    """What one of the toolkit's tools prints."""
    path = find_tool(tool)
    if path is None:
        raise FileNotFoundError(f"{tool} is neither on the PATH nor in Triton's package")
    return subprocess.run([path, *map(str, arguments)], check=True, capture_output=True, text=True).stdout


class Compiled(NamedTuple):
    """Facts of a Triton kernel, the shared bytes that it asks for, and its PTX."""

    facts: Kernel
    shared: int
    ptx: str


def compile_triton(
    kernel: Any,
    architecture: int,
    dtype: str,
    constants: dict[str, Any],
    num_warps: int,
    num_stages: int,
    types: dict[str, str] | None = None,
    fp_fusion: bool = True,
) -> Compiled:
    """A Triton kernel compiled as for packed inputs: unit inner strides, addresses, strides and row lengths multiples of 16.

    types: of arguments that are not what their name says: pointers to `dtype`, strides and sizes i32. constants: compile-time arguments, and
    others that the launch would make constant.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    unset = [parameter.name for parameter in kernel.params if parameter.is_constexpr and parameter.name not in constants]
    assert not unset, f"{kernel.fn.__name__}: {unset} would be run-time arguments of another kernel"
    given = {**FLOATS, **dict.fromkeys(FLOAT32_POINTERS, "*fp32"), **(types or {})}
    signature, constexprs, attributes = {}, dict(constants), {}
    for index, name in enumerate(kernel.arg_names):
        signature[name] = given.get(name, f"*{dtype}" if name.endswith("_ptr") else "i32")
        if name in constants:
            signature[name] = "constexpr"
        elif name.endswith("_ptr"):
            attributes[(index,)] = [["tt.divisibility", 16]]
        elif name.endswith("stride_d"):
            signature[name] = "constexpr"
            constexprs[name] = 1
        elif "stride" in name or name.endswith(("inner", "columns")):
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constexprs=constexprs, attrs=attributes)
    options = {"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": fp_fusion}
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    assert not wgmma.hazards(compiled.asm["ttgir"], num_stages)
    (facts,) = inspect(compiled.asm["cubin"]).values()
    return Compiled(facts, compiled.metadata.shared, compiled.asm["ptx"])
