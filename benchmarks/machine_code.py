"""Innermost loops of object files as objdump prints them (x86, AT&T syntax), and what in them touches the stack."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")
_INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\t(?:[a-z]\w* )*?(\w+)(?:\s+(.*))?$")
_TARGET = re.compile(r"^([0-9a-f]+) <")
# Sums, products and conversions of vectors of floats, products of integers in vectors, products of tiles.
_ARITHMETIC = re.compile(r"^v?(f?n?m?(add|sub|mul|div)\w*p[sd]|cvt\w*p[sd]|dpbf16ps|pdpbusds?|pmadd\w+|pmul\w+)$|^tdp\w+$")
_PRODUCT = re.compile(r"^v?(fn?m(add|sub)\d*p[sd]|dpbf16ps|pdpbusds?|pmaddubsw)$|^tdp\w+$")
_NO_ACCESS = ("j", "call", "lea", "nop", "prefetch")
_LEAST_SHARE = 1 / 16


@dataclass(frozen=True)
class Instruction:
    address: int
    name: str
    operands: str

    @property
    def target(self) -> int | None:
        """Where a direct jump goes."""
        found = _TARGET.match(self.operands) if self.name.startswith("j") else None
        return int(found[1], 16) if found else None

    @property
    def is_arithmetic(self) -> bool:
        return _ARITHMETIC.match(self.name) is not None

    @property
    def is_product(self) -> bool:
        """Multiply-adds of floats, products of bytes or pairs in vectors, products of tiles."""
        return _PRODUCT.match(self.name) is not None

    @property
    def is_store(self) -> bool:
        """The last operand is where the result goes, but comparisons have none."""
        into_memory = re.search(r"\)(?:\{%k\d\})?$", self.operands) is not None
        return into_memory and not self.name.startswith((*_NO_ACCESS, "cmp", "test", "vcomi", "vucomi"))

    @property
    def is_load(self) -> bool:
        """Reads memory; so does what adds to it."""
        if "(" not in self.operands or self.name.startswith(_NO_ACCESS):
            return False
        return not self.is_store or not self.name.startswith(("mov", "vmov", "vpmov", "vextract", "vcvt", "tilestored"))


@dataclass(frozen=True)
class Loop:
    """function: demangled. stack: instructions that read or write a fixed place on the stack, which is where spilled values lie; what
    has an index besides is an array."""

    function: str
    body: tuple[Instruction, ...]
    stack: tuple[Instruction, ...]

    @property
    def arithmetic(self) -> int:
        return sum(one.is_arithmetic for one in self.body)

    @property
    def assembly(self) -> str:
        """The body as an assembler reads it: what jumps goes to the first line."""
        return "".join(f"{one.name} {'.Ltop' if one.target is not None else one.operands}\n" for one in self.body)


def functions(file: Path) -> Iterator[tuple[str, list[Instruction]]]:
    """Demangled name and instructions of each function of an object file."""
    command = ["objdump", "--disassemble", "--demangle", "--no-show-raw-insn", "--wide", str(file)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    name = ""
    body: list[Instruction] = []
    for line in text.splitlines():
        if start := _FUNCTION.match(line):
            if body:
                yield name, body
            name, body = start[1].replace("(anonymous namespace)::", ""), []
        elif found := _INSTRUCTION.match(line):
            body.append(Instruction(int(found[1], 16), found[2], (found[3] or "").split("#")[0].strip()))
    if body:
        yield name, body


def _reachable(start: int, edges: dict[int, list[int]], stop: int | None = None) -> set[int]:
    seen, left = {start}, [start]
    while left:
        at = left.pop()
        if at == stop:
            continue
        for following in edges.get(at, []):
            if following not in seen:
                seen.add(following)
                left.append(following)
    return seen


def _loops(body: list[Instruction]) -> list[set[int]]:
    """Addresses of each loop: what lies on a way from the target of a jump back to that jump."""
    known = {one.address for one in body}
    forward: dict[int, list[int]] = {}
    backward: dict[int, list[int]] = {}
    back_edges: dict[int, list[int]] = {}
    for one, following in zip(body, [*body[1:], None], strict=True):
        targets = [one.target] if one.target in known else []
        if following is not None and one.name not in ("jmp", "ret", "ud2", "hlt"):
            targets.append(following.address)
        for target in targets:
            forward.setdefault(one.address, []).append(target)
            backward.setdefault(target, []).append(one.address)
            if target <= one.address:
                back_edges.setdefault(target, []).append(one.address)
    loops = []
    for header, sources in back_edges.items():
        after = _reachable(header, forward)
        loops.append(set().union(*(_reachable(source, backward, stop=header) for source in sources if source in after)) & after)
    return [loop for loop in loops if loop]  # a jump back to where no way returns is none


def innermost_loops(file: Path) -> Iterator[Loop]:
    """The loops without another loop in them whose work is to compute with vectors or tiles: at least a sixteenth of the instructions."""
    for name, body in functions(file):
        framed = any(one.name == "mov" and one.operands == "%rsp,%rbp" for one in body)
        place = re.compile(r"\((?:%rsp|%rbp)\)" if framed else r"\(%rsp\)")
        loops = _loops(body)
        for loop in loops:
            if any(other < loop for other in loops):
                continue
            inside = tuple(one for one in body if one.address in loop)
            stack = tuple(one for one in inside if place.search(one.operands) and one.name != "lea")
            found = Loop(name, inside, stack)
            if found.arithmetic >= _LEAST_SHARE * len(inside) or any(one.name.startswith("tdp") for one in inside):
                yield found
