"""Builds the native library, CUDA kernels included, and runs the C++ tests of the kernels' index arithmetic."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.parts import write

REPOSITORY = Path(__file__).resolve().parents[2]
CUDA_BIN = Path("/usr/local/cuda/bin")  # where nvcc lies if it is not on the PATH
TESTS = ("test_cuda_index", "test_cuda_index_emulated")


def environment() -> dict[str, str]:
    """With the tools of this Python's environment and of CUDA's usual folder behind those of the PATH."""
    places = [os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent), str(CUDA_BIN)]
    return {**os.environ, "PATH": os.pathsep.join(places)}


def steps(folder: Path, path: str) -> list[list[str]]:
    """Configure; the library, which all other parts need; then the tests."""
    generator = ["-G", "Ninja"] if shutil.which("ninja", path=path) else []
    build = ["cmake", "--build", str(folder), "--parallel", str(os.cpu_count() or 2), "--target"]
    return [
        ["cmake", "-S", ".", "-B", str(folder), *generator, f"-DPython_EXECUTABLE={sys.executable}", "-DESAT_CUDA=1", "-DESAT_TESTS=ON"],
        [*build, "_esat_native"],
        [*build, *TESTS],
        ["ctest", "--test-dir", str(folder), "--output-on-failure", "-R", "cuda"],
    ]


def main(output: Path) -> int:
    tools = environment()
    code = 0
    for step in steps(REPOSITORY / "build" / "gpu", tools["PATH"]):
        print("+", " ".join(step), flush=True)
        program = shutil.which(step[0], path=tools["PATH"])
        code = (
            127 if program is None else subprocess.run([program, *step[1:]], cwd=REPOSITORY, env=tools, stderr=subprocess.STDOUT).returncode
        )
        if code != 0:
            print(f"{step[0]} is not installed" if program is None else f"exit code {code}", flush=True)
            break
    write(output, {"ok": code == 0})
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
