"""Issue slots of the CUDA attention kernels' inner loop, counted in their machine code: `python -m benchmarks.sass`.

In each round of the loop a warp multiplies 16 queries with a tile of 64 keys; of the Hopper kernel, together with the three others of its
warpgroup. Every instruction takes one issue slot of its scheduler; some
hold their unit for longer (`CYCLES`). Needs nvcc and cuobjdump (Triton's package has one), no GPU.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURES = ("80", "90a")

# Cycles for which an instruction of a warp holds its unit: one of the four of a multiprocessor, but the whole one's shared memory. From the
# throughputs in NVIDIA's programming guide; mma.sync on sm_90 has about 62 % of the rate of wgmma, whose 64 x 64 x 16 take all four matrix units.
CYCLES: dict[str, dict[str, dict[str, float]]] = {
    "80": {
        "matrix": {"HMMA": 8},
        "special": {"MUFU": 8},
        "fp32": dict.fromkeys(("FFMA", "FMUL", "FADD", "IMAD"), 2),
        "shared / 4": {"LDSM": 16, "LDS": 4, "LDGSTS": 16},
    },
    "90a": {
        "matrix": {"HMMA": 6.5, "HGMMA": 32},
        "special": {"MUFU": 8},
        "fp32": {"FFMA": 1, "FMUL": 1, "FADD": 1, "IMAD": 2},
        "shared / 4": {"LDSM": 16, "LDS": 4, "LDGSTS": 16, "HGMMA": 16},
    },
}
CLASSES = {
    "products": ("HMMA", "HGMMA", "WARPGROUP", "LDSM"),
    "softmax": ("FFMA", "FMUL", "FADD", "FMNMX", "FSETP", "FSEL", "MUFU", "F2FP", "LDS", "LEA"),
    "copies": ("LDGSTS", "LDGDEPBAR", "DEPBAR", "VIADDMNMX", "IMNMX"),
    "control": ("BAR", "BRA", "BSSY", "BSYNC", "WARPSYNC", "VOTE", "ISETP", "PLOP3", "NOP", "SYNCS"),
}
MATRIX = ("HMMA", "HGMMA")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of machine code: its address, its opcode without modifiers, whether it never runs, and where it branches to."""

    address: int
    opcode: str
    never: bool = False
    conditional: bool = False
    target: int | None = None


@dataclasses.dataclass(frozen=True)
class Round:
    """A way through the loop's body."""

    instructions: tuple[Instruction, ...]

    @property
    def slots(self) -> int:
        return len(self.instructions)

    def count(self, *opcodes: str) -> int:
        return sum(instruction.opcode in opcodes and not instruction.never for instruction in self.instructions)

    def classes(self) -> dict[str, int]:
        """Slots of each class. What is in none of `CLASSES` is address arithmetic: of the copies where they are near, else "other"."""
        found: Counter[str] = Counter()
        copies = [index for index, instruction in enumerate(self.instructions) if instruction.opcode == "LDGSTS"]
        for index, instruction in enumerate(self.instructions):
            near = bool(copies) and copies[0] - 32 <= index <= copies[-1]
            name = next((name for name, opcodes in CLASSES.items() if instruction.opcode in opcodes), "copies" if near else "other")
            found["copies" if instruction.never else name] += 1
        return {name: found[name] for name in (*CLASSES, "other")}

    def cycles(self, architecture: str) -> dict[str, float]:
        """Cycles for which each unit is held."""
        return {unit: sum(self.count(opcode) * each for opcode, each in costs.items()) for unit, costs in CYCLES[architecture].items()}


def find_tool(name: str) -> str | None:
    """nvcc or cuobjdump: from the PATH, /usr/local/cuda, or Triton's package."""
    found = shutil.which(name) or shutil.which(name, path="/usr/local/cuda/bin")
    if found is None and (triton := find_spec("triton")) is not None and triton.origin is not None:
        found = shutil.which(name, path=str(Path(triton.origin).parent / "backends" / "nvidia" / "bin"))
    return found


def compile_kernels(architecture: str, folder: Path, name: str = "attention_sm80") -> Path:
    """A file of csrc/attention as a cubin in `folder`."""
    path = folder / f"{name}_{architecture}.cubin"
    code = f"-gencode=arch=compute_{architecture},code=sm_{architecture}"
    source = ROOT / "csrc" / "attention" / f"{name}.cu"
    nvcc = find_tool("nvcc")
    if nvcc is None:
        raise FileNotFoundError("nvcc is neither on the PATH nor in /usr/local/cuda")
    subprocess.run([nvcc, "-std=c++17", "-O3", f"-I{ROOT / 'csrc'}", code, "-cubin", "-o", path, source], check=True, timeout=600)
    return path


def functions(cubin: Path) -> dict[str, list[Instruction]]:
    """Name -> machine code of each function."""
    tool = find_tool("cuobjdump")
    if tool is None:
        raise FileNotFoundError("cuobjdump is neither on the PATH, in /usr/local/cuda nor in Triton's package")
    text = subprocess.run([tool, "-sass", cubin], check=True, capture_output=True, text=True).stdout
    found: dict[str, list[Instruction]] = {}
    code: list[Instruction] = []
    for line in text.splitlines():
        if match := re.search(r"Function : (\S+)", line):
            code = found.setdefault(match[1], [])
        elif match := re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+ )?\s*([A-Z][A-Z0-9]*)[^;]*?(0x[0-9a-f]+)? ?;", line):
            target = int(match[4], 16) if match[3] == "BRA" and match[4] else None
            guard = (match[2] or "").strip()
            uniform = re.search(r"BRA !?U?P", line) is not None
            code.append(Instruction(int(match[1], 16), match[3], guard == "@!PT", bool(guard) or uniform, target))
    return found


def rounds(code: Sequence[Instruction], counted: str = "LDGSTS") -> dict[tuple[int, int], Round]:
    """(instructions `counted`, products) -> the shortest way through the body of the innermost loop with matrix instructions that has so many."""
    index = {instruction.address: i for i, instruction in enumerate(code)}
    loops = [(index[each.target], i) for i, each in enumerate(code) if each.target is not None and each.target <= each.address]
    # The shortest of those with the most: a wait that is repeated may stand behind the loop and jump back into it.
    start, end = max(loops, key=lambda loop: (sum(code[i].opcode == "HMMA" for i in range(loop[0], loop[1] + 1)), loop[0] - loop[1]))
    ways: dict[
        int, dict[tuple[int, int], tuple[int, int]]
    ] = {}  # instruction -> (counted, products) from there on -> slots, next instruction
    for i in range(end, start - 1, -1):
        here = code[i]
        after = [] if i == end else [i + 1]
        if i != end and here.target is not None:
            inside = here.address < here.target <= code[end].address
            after = [*(after if here.conditional else []), *([index[here.target]] if inside else [])]
        some, products = int(here.opcode == counted), int(here.opcode in MATRIX)
        ways[i] = {(some, products): (1, i)} if i == end else {}
        for following in after:
            for (more, more_products), (slots, _) in ways[following].items():
                key = (some + more, products + more_products)
                ways[i][key] = min(ways[i].get(key, (1 << 30, 0)), (slots + 1, following))
    found = {}
    for key in ways[start]:
        i, left, way = start, key, [code[start]]
        while i != end:
            here = code[i]
            following = ways[i][left][1]
            left = (left[0] - (here.opcode == counted), left[1] - (here.opcode in MATRIX))
            i = following
            way.append(code[i])
        found[key] = Round(tuple(way))
    return found


HOPPER_PRODUCTS = 4 + 4 + 4  # wgmma of a tile: q k^T, P v; mma.sync: the sums of P
HOPPER_AGAIN = 4 * 8 + 4  # mma.sync of a warp that does a tile again
SCORES = 64 * 16 // 32  # of a tile, for each thread


def products(head_dim: int) -> int:
    """Matrix instructions of a tile: q k^T, P v and the sums of P."""
    return 2 * (head_dim // 16) * 8 + 4


def usual(code: Sequence[Instruction], head_dim: int) -> Round:
    """The round that copies the next tile and needs no exact maximum."""
    ways = rounds(code)
    return ways[max(copies for copies, _ in ways), products(head_dim)]


def exact(code: Sequence[Instruction], head_dim: int) -> Round:
    """The round that also does the tile again with its exact maximum."""
    ways = rounds(code)
    return ways[max(copies for copies, _ in ways), products(head_dim) + (head_dim // 16) * 8 + 4]


def instances(cubin: Path) -> dict[tuple[int, bool, int], list[Instruction]]:
    """(head dimension, attraction, warps of a half) -> machine code."""
    found = {}
    for name, code in functions(cubin).items():
        if match := re.search(r"fda_forward_kernelILi(\d+)ELb([01])ELi(\d+)E", name):
            found[int(match[1]), match[2] == "1", int(match[3])] = code
    return dict(sorted(found.items()))


def hopper_instances(cubin: Path) -> dict[tuple[bool, int], list[Instruction]]:
    """(attraction, warpgroups with queries) -> machine code."""
    found = {}
    for name, code in functions(cubin).items():
        if match := re.search(r"fda_forward_sm90_kernelILb([01])ELi(\d+)E", name):
            found[match[1] == "1", int(match[2])] = code
    return dict(sorted(found.items()))


def hopper_rounds(code: Sequence[Instruction], attract: bool) -> tuple[Round, Round]:
    """The usual round, and the one that also does the tile again with its exact maximum."""
    ways = rounds(code, "MUFU")
    exponentials = SCORES * (2 if attract else 1)
    again = [(special, done) for special, done in ways if done == HOPPER_PRODUCTS + HOPPER_AGAIN and special >= 2 * exponentials]
    return ways[exponentials, HOPPER_PRODUCTS], ways[min(again)]


def _line(way: Round, architecture: str) -> str:
    parts = ", ".join(f"{name} {count}" for name, count in way.classes().items())
    units = ", ".join(f"{name} {cycles:.0f}" for name, cycles in way.cycles(architecture).items())
    return f"{way.slots} slots ({parts}); cycles: {units}"


def main() -> None:
    for architecture in ARCHITECTURES:
        with tempfile.TemporaryDirectory() as folder:
            code = instances(compile_kernels(architecture, Path(folder)))
        for (head_dim, attract, warps), instructions in code.items():
            way = usual(instructions, head_dim)
            kind = "FDA" if attract else "plain"
            again = exact(instructions, head_dim).slots
            print(f"sm_{architecture} D {head_dim} {kind} rows {16 * warps}: {_line(way, architecture)}; exact {again}")
    with tempfile.TemporaryDirectory() as folder:
        hopper = hopper_instances(compile_kernels("90a", Path(folder), "attention_sm90"))
    for (attract, groups), instructions in hopper.items():
        way, again = hopper_rounds(instructions, attract)
        kind = "FDA" if attract else "plain"
        print(f"sm_90a wgmma D 64 {kind} rows {64 * groups}: {_line(way, '90a')}; exact {again.slots}")


if __name__ == "__main__":
    main()
