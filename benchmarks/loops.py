"""Innermost loops of the CPU kernels, counted in their machine code: `python -m benchmarks.loops build/native`.

For a round of each loop: instructions, loads, stores, stack accesses and products (multiply-adds, dot products, tile products); and where
llvm-mca is installed (Debian's `llvm-19`: `znver4` and `sapphirerapids` came with LLVM 17) the cycles of a round on a model of the processor: all in
L1, no other thread, branches foreseen. The models know no AMX: a loop with tiles has no cycles. Needs objdump, not the instructions.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine_code import Loop, innermost_loops

PROCESSORS = ("znver4", "sapphirerapids")
ROUNDS = 100


@dataclasses.dataclass(frozen=True)
class Count:
    """A round of one loop. function: demangled, without parameters. cycles: by processor; empty without llvm-mca, or of tiles."""

    source: str
    function: str
    instructions: int
    loads: int
    stores: int
    stack: int
    products: int
    cycles: dict[str, float]


def function_name(demangled: str) -> str:
    """Without namespaces, parameters and the compiler's suffixes: `block<float, 12>`."""
    name = re.sub(r"\((?:anonymous namespace|unsigned char|signed char|int|long|bool)\)", "", demangled)
    name = re.sub(r"std::integral_constant<long, 1l>", "One", re.sub(r"\besat::(?:\w+::)?|linear::", "", name))
    depth, start = 0, 0
    for i, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if depth == 0 and letter == " ":
            start = i + 1  # what is in front is the result's type
        if depth == 0 and letter == "(":
            return name[start:i]
    return name[start:]


def find_mca() -> str | None:
    """llvm-mca, the newest version of those that Debian installs side by side."""
    found = [name for version in range(30, 16, -1) if (name := shutil.which(f"llvm-mca-{version}"))]
    return found[0] if found else shutil.which("llvm-mca")


def cycles(loops: Sequence[Loop], processor: str) -> list[float]:
    """Cycles of a round of each loop, in the steady state, by llvm-mca. RuntimeError if it does not know the processor or an instruction."""
    tool = find_mca()
    assert tool is not None
    regions = [f"# LLVM-MCA-BEGIN {i}\n{loop.assembly}# LLVM-MCA-END\n" for i, loop in enumerate(loops)]
    command = [tool, "-mtriple=x86_64", f"-mcpu={processor}", f"-iterations={ROUNDS}", "-json"]
    done = subprocess.run(command, input="".join(regions), capture_output=True, text=True)
    if done.returncode != 0 or not done.stdout.strip():
        raise RuntimeError(f"{tool} -mcpu={processor} cannot model these loops: {done.stderr.strip().partition(chr(10))[0]}")
    found = {region["Name"]: region["SummaryView"]["TotalCycles"] for region in json.loads(done.stdout)["CodeRegions"]}
    return [round(found[str(i)] / ROUNDS, 2) for i in range(len(loops))]


def count(file: Path, pattern: str, processors: Sequence[str]) -> list[Count]:
    """Of the innermost loops of an object file, those of functions whose name matches."""
    loops = [loop for loop in innermost_loops(file) if re.search(pattern, function_name(loop.function))]
    without_tiles = [loop for loop in loops if "tmm" not in loop.assembly]
    modelled: dict[int, dict[str, float]] = {id(loop): {} for loop in loops}
    for processor in processors if without_tiles else ():
        for loop, each in zip(without_tiles, cycles(without_tiles, processor), strict=True):
            modelled[id(loop)][processor] = each
    return [
        Count(
            file.name.removesuffix(".o").removesuffix(".cpp"),
            function_name(loop.function),
            len(loop.body),
            sum(one.is_load for one in loop.body),
            sum(one.is_store for one in loop.body),
            len(loop.stack),
            sum(one.is_product for one in loop.body),
            modelled[id(loop)],
        )
        for loop in loops
    ]


def table(counts: Sequence[Count], processors: Sequence[str]) -> str:
    """A line a loop, as Markdown."""
    heads = ["source", "function", "instructions", "loads", "stores", "stack", "products", *processors]
    lines = [heads, ["--"] * len(heads)]
    for one in counts:
        numbers = (one.instructions, one.loads, one.stores, one.stack, one.products)
        shown = [str(one.cycles.get(processor, "")) for processor in processors]
        lines.append([one.source, f"`{one.function}`", *map(str, numbers), *shown])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, nargs="+", help="object files, or folders that are searched for them")
    parser.add_argument("--function", default="", help="only functions whose name matches this regular expression")
    parser.add_argument("--processor", action="append", help=f"of llvm-mca's -mcpu; default: {', '.join(PROCESSORS)}")
    parser.add_argument("--json", type=Path, help="write the counts there, too")
    options = parser.parse_args(arguments)
    if shutil.which("objdump") is None:
        parser.error("objdump is not on the PATH: install binutils")
    files = [file for path in options.path for file in (sorted(path.rglob("*.o")) if path.is_dir() else [path])]
    for file in files:
        if not file.is_file():
            parser.error(f"expected an object file or a folder, got {file}")
    if not files:
        parser.error(f"no object file (*.o) in {', '.join(map(str, options.path))}: build the native library first")
    processors: Sequence[str] = options.processor or (PROCESSORS if find_mca() else ())
    if processors and find_mca() is None:
        parser.error("llvm-mca is not on the PATH: install llvm")
    try:
        counts = [one for file in files for one in count(file, options.function, processors)]
    except (RuntimeError, subprocess.CalledProcessError) as error:
        parser.error(str(error))
    print(table(counts, processors))
    if options.json:
        options.json.write_text("[\n" + ",\n".join(json.dumps(dataclasses.asdict(one)) for one in counts) + "\n]\n")


if __name__ == "__main__":
    main()
