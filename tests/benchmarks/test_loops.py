"""Counts of a small object file's loops, and what the command says where something is missing."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks import loops
from tests.require import require

# A round: three loads (two are operands), a store, two products; a spilled value is read, another one after the loop only.
SOURCE = """
        .text
        .globl  _ZN4esat9attention5weighILi3EEEvPKf
        .type   _ZN4esat9attention5weighILi3EEEvPKf, @function
_ZN4esat9attention5weighILi3EEEvPKf:
        xorl    %eax, %eax
.L2:
        vmovups (%rdi,%rax), %ymm0
        vfmadd231ps %ymm0, %ymm4, %ymm2
        vfmadd231ps %ymm0, %ymm1, %ymm2
        vmulps  (%rdx,%rax), %ymm0, %ymm5
        vaddps  0x20(%rsp), %ymm2, %ymm3
        vmovups %ymm3, (%rcx,%rax)
        addq    $32, %rax
        cmpq    %rax, %rsi
        jne     .L2
        vmovaps 0x40(%rsp), %ymm0
        ret
"""


@pytest.fixture
def built(tmp_path: Path) -> Path:
    require("objdump", None if shutil.which("objdump") and shutil.which("as") else "no binutils")
    require("objdump", None if platform.machine() in ("x86_64", "AMD64") else f"the code is read on x86, not on {platform.machine()}")
    (tmp_path / "kernel.s").write_text(SOURCE)
    target = tmp_path / "kernel_avx2.cpp.o"
    subprocess.run(["as", str(tmp_path / "kernel.s"), "-o", str(target)], check=True)
    return target


def test_a_round_is_counted(built: Path) -> None:
    (found,) = loops.count(built, "", ())
    assert (found.source, found.function) == ("kernel_avx2", "weigh<3>")
    assert (found.instructions, found.loads, found.stores, found.stack, found.products) == (9, 3, 1, 1, 2)
    assert found.cycles == {}
    assert loops.count(built, "attend", ()) == []


def test_cycles_are_those_of_the_longest_chain(built: Path) -> None:
    """Two multiply-adds of one sum after each other: four cycles each on Zen 4, which could issue the round in two."""
    tool = loops.find_mca()
    if tool is None or "znver4" not in subprocess.run([tool, "-mtriple=x86_64", "-mcpu=help"], capture_output=True, text=True).stderr:
        pytest.skip("no llvm-mca that knows znver4")
    (found,) = loops.count(built, "", ("znver4",))
    assert 8 <= found.cycles["znver4"] < 8.5


def test_an_unknown_processor_is_an_error(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if loops.find_mca() is None:
        pytest.skip("no llvm-mca")
    with pytest.raises(SystemExit, match="2"):
        loops.main([str(built), "--processor", "z80"])
    assert "z80" in capsys.readouterr().err


def test_the_command_prints_and_stores(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, "find_mca", lambda: None)
    loops.main([str(tmp_path), "--json", str(tmp_path / "counts.json")])
    assert "| kernel_avx2 | `weigh<3>` | 9 | 3 | 1 | 1 | 2 |" in capsys.readouterr().out
    (stored,) = json.loads((tmp_path / "counts.json").read_text())
    assert stored["instructions"] == 9


def test_what_is_missing_is_named(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def message(*arguments: str) -> str:
        with pytest.raises(SystemExit, match="2"):
            loops.main(arguments)
        return capsys.readouterr().err

    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no object file" in message(str(empty))
    assert "expected an object file or a folder" in message(str(tmp_path / "none.o"))
    assert "objdump" in message(str(tmp_path / "kernel.s"))  # which is no object file
    monkeypatch.setenv("PATH", str(empty))
    assert "objdump is not on the PATH" in message(str(built))


@pytest.mark.parametrize(
    ("demangled", "name"),
    [
        ("void esat::attention::product<3, true, One>(float const*, long)", "product<3, true, One>"),
        (
            "void esat::linear::multiply<signed char, 12, esat::linear::AddRows>(esat::linear::Product<signed char> const&)",
            "multiply<signed char, 12, AddRows>",
        ),
        ("esat::attention::bias_keys(esat::attention::Constants const&)", "bias_keys"),
        ("esat::attention::Counters esat::attention::run_items<Floats, true>(char*)", "run_items<Floats, true>"),
    ],
)
def test_names_are_short(demangled: str, name: str) -> None:
    assert loops.function_name(demangled) == name
