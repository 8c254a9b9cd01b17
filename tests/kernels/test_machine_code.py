"""No inner loop of a kernel keeps its values on the stack, on any instruction set that the compiler at hand makes code for."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.machine_code import innermost_loops
from tests.require import require

REPOSITORY = Path(__file__).resolve().parents[2]
SETS = "|".join(["portable", *re.findall(r"ESAT_X86_SETS ([^)]*)", (REPOSITORY / "CMakeLists.txt").read_text())[0].split()])
SOURCES = sorted(
    str(path.relative_to(REPOSITORY / "csrc"))
    for path in (REPOSITORY / "csrc").glob("*/*.cpp")
    if re.search(rf"_({SETS})\.cpp$", path.name)
)
VECTOR = re.compile(r"%([xyzt]mm)\d")


@dataclass(frozen=True)
class Known:
    """Reads that are allowed, of vectors too or of addresses and counters alone, and why they do not matter."""

    source: str
    function: str
    vectors: bool
    why: str


KNOWN = (
    Known(r"attention/.*_portable", r"attract<", True, "a factor that does not change, as the operand of a product: 16 registers"),
    Known(r"attention/.*_portable", r"row_probabilities\(", True, "constants of one row a head"),
    Known(r"crop/.*_avx2", r"to_patches\(", True, "shuffle masks: there are more than registers"),
    Known(r"attention/.*_amx", r"write_rows\(", False, "an address, once a row of the output"),
    Known(r"attention/.*_amx", r"attend<", False, "an address, once for a tile of scores"),
    Known(
        r"linear/", r"multiply<.*(AddRows|StoreGelu)", False, "the address of a bias where a row of sums is finished, after all products"
    ),
)
# Tile products take 16 cycles and more each; addresses and flags between them cost nothing, written or read.
TILES = r"linear/linear_cpu_amx"


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each of SOURCES as an object file, compiled as the library is."""
    require("objdump", None if shutil.which("objdump") else "no binutils")
    cmake = shutil.which("cmake", path=f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}")
    require("objdump", None if cmake else "no cmake, which knows the compiler's flags")
    require("objdump", None if platform.machine() in ("x86_64", "AMD64") else f"the code is read on x86, not on {platform.machine()}")
    assert cmake is not None
    build = tmp_path_factory.mktemp("machine_code")
    configure = [cmake, "-S", str(REPOSITORY), "-B", str(build), f"-DPython_EXECUTABLE={sys.executable}"]
    done = subprocess.run(configure, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    def compiled(command: dict[str, str]) -> tuple[str, Path]:
        source = str(Path(command["file"]).relative_to(REPOSITORY / "csrc"))
        target = build / (source.replace("/", "_") + ".o")
        arguments = shlex.split(command["command"])
        arguments[arguments.index("-o") + 1] = str(target)
        done = subprocess.run(arguments, cwd=command["directory"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return source, target

    wanted = {str(REPOSITORY / "csrc" / source) for source in SOURCES}
    commands = {c["file"]: c for c in json.loads((build / "compile_commands.json").read_text()) if c["file"] in wanted}
    assert set(commands) == wanted
    with ThreadPoolExecutor(2) as pool:
        return dict(pool.map(compiled, commands.values()))


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_inner_loops_leave_the_stack_alone(objects: dict[str, Path], source: str) -> None:
    known = [one for one in KNOWN if re.search(one.source, source)]
    loops = list(innermost_loops(objects[source]))
    assert loops
    wrong = []
    for loop in loops:
        for one in loop.stack:
            vector = VECTOR.search(one.operands) is not None
            tiles = not vector and re.search(TILES, source)
            allowed = any(re.search(k.function, loop.function) and (k.vectors or not vector) for k in known) and not one.is_store
            if not (tiles or allowed):
                wrong.append(f"{loop.function[:120]}: {one.address:x} {one.name} {one.operands}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_a_set_shares_no_function_with_others(objects: dict[str, Path], source: str) -> None:
    """Of functions with one name, inline ones and templates, the linker keeps one: it may be made for a set that runs elsewhere only."""
    require("objdump", None if shutil.which("nm") else "no binutils")
    done = subprocess.run(["nm", "-C", "--defined-only", str(objects[source])], capture_output=True, text=True, check=True)
    shared = [line for line in done.stdout.splitlines() if re.match(r"[0-9a-f]+ [WVu] (?!DW\.ref)", line)]
    assert not shared


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "function", "instruction", "least"),
    [
        ("attention/attention_cpu_avx2.cpp", "product<3, false", "vfmadd", 12),
        ("attention/attention_cpu_avx512.cpp", "product<3, false", "vfmadd", 24),
        ("attention/attention_cpu_avx512bf16.cpp", "product<3, false", "vdpbf16ps", 24),
        ("attention/attention_cpu_amx.cpp", "attend<", "tdpbf16ps", 2),
        ("linear/linear_cpu_avx2.cpp", "block<float, 6>", "vfmadd", 12),
        ("linear/linear_int8_cpu_avx2.cpp", "block<signed char, 4>", "vpmaddubsw", 8),
        ("linear/linear_int8_cpu_avx2vnni.cpp", "block<signed char, 6>", "vpdpbusd", 12),
        ("linear/linear_cpu_avx512bf16.cpp", "block<signed char, 12>", "vpdpbusd", 24),
    ],
)
def test_the_products_are_among_the_loops(objects: dict[str, Path], source: str, function: str, instruction: str, least: int) -> None:
    """Otherwise nothing was looked at."""
    loops = [loop for loop in innermost_loops(objects[source]) if function in loop.function]
    assert max(sum(one.name.startswith(instruction) for one in loop.body) for loop in loops) >= least


LOOP = """
        .text
        .globl  kernel
        .type   kernel, @function
kernel:
        {before}
        xorl    %eax, %eax
.L2:
        vmovups (%rdi,%rax), %ymm0
        {inside}
        vfmadd231ps %ymm0, %ymm1, %ymm2
        addq    $32, %rax
        {leave}
        cmpq    %rax, %rsi
        jne     .L2
        {after}
        ret
"""


@pytest.mark.parametrize(
    ("parts", "count"),
    [
        ({}, 0),
        ({"inside": "vmovaps %ymm0, 0x40(%rsp)"}, 1),
        ({"inside": "vaddps -0x20(%rsp), %ymm0, %ymm0\n mov (%rsp), %rcx"}, 2),
        ({"inside": "{vex} vpdpbusd 0x40(%rsp), %ymm1, %ymm2"}, 1),
        ({"inside": "vmovups 0x40(%rsp,%rax), %ymm1"}, 0),  # an array
        ({"inside": "vmovups -0x40(%rbp), %ymm1"}, 0),  # rbp is any register here
        ({"inside": "vmovups -0x40(%rbp), %ymm1", "before": "push %rbp\n mov %rsp, %rbp", "after": "leave"}, 1),
        ({"before": "vmovaps %ymm0, 0x40(%rsp)", "after": "vmovaps 0x40(%rsp), %ymm0"}, 0),
        ({"leave": "jp .L3", "after": "ret\n.L3: mov 0x8(%rsp), %rbx\n"}, 0),  # a way out
        ({"leave": "jmp .L4\n.L5: mov 0x8(%rsp), %rbx\n ret\n.L4: jp .L5"}, 0),  # and one that lies between
    ],
)
def test_what_counts(tmp_path: Path, parts: dict[str, str], count: int) -> None:
    require("objdump", None if shutil.which("objdump") and shutil.which("as") else "no binutils")
    require("objdump", None if platform.machine() in ("x86_64", "AMD64") else f"the code is read on x86, not on {platform.machine()}")
    source, target = tmp_path / "loop.s", tmp_path / "loop.o"
    source.write_text(LOOP.format(**{"before": "", "inside": "", "leave": "", "after": ""} | parts))
    subprocess.run(["as", str(source), "-o", str(target)], check=True)
    (loop,) = innermost_loops(target)
    assert loop.function == "kernel"
    assert loop.arithmetic >= 1
    assert len(loop.stack) == count


ENTERED_IN_THE_MIDDLE = """
        .text
        .globl  kernel
        .type   kernel, @function
kernel:
.Lgroup:
        jmp     .Lenter
.Lodd:
        vxorps  %ymm0, %ymm0, %ymm0
.Lpair:
        vaddps  0x40(%rsp), %ymm0, %ymm3
        vaddps  %ymm0, %ymm3, %ymm3
.Lenter:
        vfmadd231ps %ymm0, %ymm1, %ymm2
        cmpq    %rax, %rsi
        jle     .Lodd
        vfmadd231ps %ymm0, %ymm1, %ymm2
        cmpq    %rax, %rdi
        jle     .Lpair
        vmovaps %ymm2, 0x80(%rsp)
        vmaxps  %ymm2, %ymm1, %ymm1
        cmpq    %rax, %rdx
        jne     .Lgroup
        ret
"""


def test_a_loop_that_is_entered_in_its_middle(tmp_path: Path) -> None:
    """As g++ turns loops over pairs whose second may be missing: what belongs to the loop around is none of it."""
    require("objdump", None if shutil.which("objdump") and shutil.which("as") else "no binutils")
    require("objdump", None if platform.machine() in ("x86_64", "AMD64") else f"the code is read on x86, not on {platform.machine()}")
    source, target = tmp_path / "loop.s", tmp_path / "loop.o"
    source.write_text(ENTERED_IN_THE_MIDDLE)
    subprocess.run(["as", str(source), "-o", str(target)], check=True)
    (loop,) = innermost_loops(target)
    assert len(loop.body) == 9
    assert [one.operands for one in loop.stack] == ["0x40(%rsp),%ymm0,%ymm3"]
