"""Builds the CUDA kernels into one shared library with a C interface. It needs nvcc and a C++ compiler, but no headers of Python or PyTorch.

    python csrc/build_cuda.py [--output esat_kernels/libesat_cuda.so] [--again]

nvcc is looked for in CUDACXX, CUDA_HOME, CUDA_PATH, on PATH and in /usr/local/cuda. A library that was built from these very sources is kept.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
OUTPUT = SOURCES.parent / "esat_kernels" / "libesat_cuda.so"
# Machine code for sm_80 (which sm_86 and sm_89 run too) and for Hopper; newer devices compile the PTX when they load it.
CODE = {"sm_80": "arch=compute_80,code=sm_80", "sm_90a": "arch=compute_90a,code=sm_90a", "ptx_80": "arch=compute_80,code=compute_80"}
FLAGS = ("-std=c++17", "-O3", "-shared", "-cudart=static", "-Xcompiler=-fPIC,-fvisibility=hidden", "-Xlinker=-s", "--threads=0")


class BuildError(Exception):
    """The library could not be built, with the reason in one line."""


def find_nvcc() -> str | None:
    """nvcc's path; None where it is not found."""
    named = os.environ.get("CUDACXX")
    if named:
        return shutil.which(named)
    folders = [os.path.join(os.environ[name], "bin") for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    return shutil.which("nvcc", path=os.pathsep.join([*folders, os.environ.get("PATH", os.defpath), "/usr/local/cuda/bin"]))


def units() -> list[Path]:
    """The files that nvcc compiles."""
    return sorted(SOURCES.glob("*/*.cu"))


def fingerprint() -> str:
    """Of everything that the library is made of: the units, what they include, and how they are compiled."""
    pending, seen = units(), set()
    while pending:
        path = pending.pop()
        if path not in seen and path.is_file():
            seen.add(path)
            pending += [SOURCES / name for name in re.findall(r'^\s*#include "([^"]+)"', path.read_text(), re.MULTILINE)]
    found = hashlib.sha256(repr((sorted(CODE.items()), FLAGS)).encode())
    for path in sorted(seen):
        found.update(f"{path.relative_to(SOURCES)}\n".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def is_current(library: Path) -> bool:
    """Whether it was built from the sources as they are now."""
    return library.is_file() and f"sources {fingerprint()}".encode() in library.read_bytes()


def build(output: Path) -> None:
    """Compile and link; `output` appears whole or not at all. BuildError says why it could not be."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise BuildError("nvcc not found in CUDACXX, CUDA_HOME, CUDA_PATH, on PATH and in /usr/local/cuda")
    partial = output.with_name(f"{output.name}.{os.getpid()}.partial")
    about = [f"-DESAT_ARCHITECTURES={' '.join(CODE)}", f"-DESAT_SOURCES={fingerprint()}"]
    codes = [part for code in CODE.values() for part in ("-gencode", code)]
    command = [nvcc, *FLAGS, *codes, f"-I{SOURCES}", *about, "-o", str(partial), *map(str, units())]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
            raise BuildError(
                next((line for line in lines if "error" in line.lower()), lines[-1] if lines else f"exit code {done.returncode}")
            )
        partial.replace(output)
    except OSError as error:
        raise BuildError(str(error)) from error
    finally:
        partial.unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the CUDA kernels into a shared library.")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--again", action="store_true", help="build even if the library is that of these sources")
    options = parser.parse_args()
    if is_current(options.output) and not options.again:
        print(f"{options.output} is that of these sources")
        return 0
    try:
        build(options.output)
    except BuildError as error:
        print(f"CUDA kernels not built: {error}", file=sys.stderr)
        return 1
    print(f"{options.output} built from sources {fingerprint()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
