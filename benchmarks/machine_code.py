"""Innermost loops of object files as objdump prints them (x86, AT&T syntax), and what in them touches the stack."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")
_INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\t(?:\{?[a-z]\w*\}? )*?(\w+)(?:\s+(.*))?$")
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


def _following(body: list[Instruction]) -> dict[int, list[int]]:
    """Addresses that each instruction may be followed by."""
    known = {one.address for one in body}
    edges: dict[int, list[int]] = {}
    for one, following in zip(body, [*body[1:], None], strict=True):
        edges[one.address] = [one.target] if one.target is not None and one.target in known else []
        if following is not None and one.name not in ("jmp", "ret", "ud2", "hlt"):
            edges[one.address].append(following.address)
    return edges


def _circles(edges: dict[int, list[int]]) -> list[set[int]]:
    """Strongly connected parts of a graph, those of one address without a jump to itself left out: Tarjan's algorithm without recursion."""
    number: dict[int, int] = {}
    low: dict[int, int] = {}
    open_: dict[int, None] = {}  # in the order in which they were met
    found = []
    for start in edges:
        left = [] if start in number else [(start, iter(edges[start]))]
        while left:
            at, following = left[-1]
            if at not in number:
                number[at] = low[at] = len(number)
                open_[at] = None
            for to in following:
                if to not in number:
                    left.append((to, iter(edges[to])))
                    break
                if to in open_:
                    low[at] = min(low[at], low[to])
            else:
                left.pop()
                if left:
                    low[left[-1][0]] = min(low[left[-1][0]], low[at])
                if low[at] == number[at]:
                    part = set()
                    while at not in part:
                        part.add(open_.popitem()[0])
                    if len(part) > 1 or at in edges[at]:
                        found.append(part)
    return found


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


def _ways(edges: dict[int, list[int]]) -> Iterator[set[int]]:
    """Addresses of the ways from the target of each jump back to jumps to it."""
    backward: dict[int, list[int]] = {}
    for at, all_to in edges.items():
        for to in all_to:
            backward.setdefault(to, []).append(at)
    for header, sources in backward.items():
        if any(at >= header for at in sources):
            after = _reachable(header, edges)
            yield set().union(*(_reachable(at, backward, stop=header) for at in sources if at >= header and at in after)) & after


def _innermost(edges: dict[int, list[int]]) -> list[set[int]]:
    """Addresses of each loop that holds no other, wherever it is entered."""
    found = []
    for loop in _circles(edges):
        # Without the jumps to where it is entered, first if in several places, what still turns are the loops inside.
        entry = min([to for at, all_to in edges.items() if at not in loop for to in all_to if to in loop], default=min(loop))
        inner = _innermost({at: [to for to in edges[at] if to in loop and to != entry] for at in edges if at in loop})
        found += inner or [loop]
    return found


def _loops(edges: dict[int, list[int]]) -> list[set[int]]:
    """Of loops with detours, some of which are loops that count as innermost, the ways without them too."""
    inner = _innermost(edges)
    ways = [way for way in _ways(edges) if way and not any(way & other for other in inner)]
    return inner + [way for way in ways if not any(other < way for other in ways)]


def innermost_loops(file: Path) -> Iterator[Loop]:
    """The loops without another loop in them whose work is to compute with vectors or tiles: at least a sixteenth of the instructions."""
    for name, body in functions(file):
        framed = any(one.name == "mov" and one.operands == "%rsp,%rbp" for one in body)
        place = re.compile(r"\((?:%rsp|%rbp)\)" if framed else r"\(%rsp\)")
        for loop in sorted(_loops(_following(body)), key=min):
            inside = tuple(one for one in body if one.address in loop)
            stack = tuple(one for one in inside if place.search(one.operands) and one.name != "lea")
            found = Loop(name, inside, stack)
            if found.arithmetic >= _LEAST_SHARE * len(inside) or any(one.name.startswith("tdp") for one in inside):
                yield found
