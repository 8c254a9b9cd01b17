"""Builds the native library with CMake and the CUDA kernels with nvcc. Without a working compiler the package installs all the same and says why
it has no library.

ESAT_NATIVE: auto (default), 1 (a failed build is an error), 0 (do not build). ESAT_CUDA: auto (default: CUDA kernels when nvcc is found),
1 (a failed build is an error), 0.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "csrc"))
import build_cuda  # noqa: E402  (MANIFEST.in takes csrc along)


class BuildError(Exception):
    """The native library could not be built, with the reason in one line."""


def find_program(name: str) -> str | None:
    """A program beside this Python (as pip's build environment has it) or on PATH."""
    return shutil.which(name, path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]))


def cause(output: str) -> str:
    """The few words of a failed step's output that say why."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for index, line in enumerate(lines):
        if line.startswith("CMake Error"):
            return " ".join(lines[index + 1 : index + 4])
    telling = [line for line in lines if "error" in line.lower()] or lines[-1:] or ["no output"]
    return telling[0]


def run(command: list[str], step: str) -> None:
    """Run one step of the build, with its output shown; BuildError names the step and the cause."""
    result = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(result.stdout, flush=True)
    if result.returncode:
        raise BuildError(f"{step} failed: {cause(result.stdout)}")


def build_library(output: Path, work: Path) -> None:
    """Configure and build with CMake; the module lands in `output`."""
    cmake = find_program("cmake")
    if cmake is None:
        raise BuildError("cmake not found")
    try:
        import pybind11
    except ImportError as error:
        raise BuildError(f"pybind11 not found: {error}") from error
    configure = [
        *(cmake, "--fresh", "-S", str(ROOT), "-B", str(work), "-DCMAKE_BUILD_TYPE=Release", f"-DPython_EXECUTABLE={sys.executable}"),
        *(f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", f"-DESAT_OUTPUT_DIR={output}"),
    ]
    ninja = find_program("ninja")
    if ninja is not None:
        configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    run(configure, "cmake's configuration")
    run([cmake, "--build", str(work), "--parallel", str(os.cpu_count() or 1)], "the compilation")


class BuildNative(build_ext):
    """`build_ext` by CMake and nvcc, which must not stop the installation unless ESAT_NATIVE=1 or ESAT_CUDA=1."""

    def build_extension(self, ext: Extension) -> None:
        """Build the library, or note beside the Python files why there is none."""
        library = Path(self.get_ext_fullpath(ext.name)).resolve()
        output = library.parent
        output.mkdir(parents=True, exist_ok=True)
        note = output / "_native_build.json"
        for old in (library, note):
            old.unlink(missing_ok=True)
        for variable in ("ESAT_NATIVE", "ESAT_CUDA"):
            if os.environ.get(variable, "auto") not in ("auto", "0", "1"):
                raise SystemExit(f"{variable} must be auto, 0 or 1, got {os.environ[variable]!r}")
        self.build_cuda(output / build_cuda.OUTPUT.name)
        wanted = os.environ.get("ESAT_NATIVE", "auto")
        try:
            if wanted == "0":
                raise BuildError("ESAT_NATIVE=0 at installation")
            build_library(output, Path(self.build_temp).resolve() / "native")
        except BuildError as error:
            if wanted == "1":
                raise SystemExit(f"esat: {error}") from error
            print(f"esat: no native library: {error}. The package works on its PyTorch reference.", file=sys.stderr)
            note.write_text(json.dumps({"reason": str(error)}) + "\n")

    def build_cuda(self, library: Path) -> None:
        """Build the CUDA kernels where nvcc is, unless they were built from these sources already."""
        wanted = os.environ.get("ESAT_CUDA", "auto")
        if build_cuda.is_current(library):
            return
        library.unlink(missing_ok=True)  # of other sources: its addresses could mean something else
        if wanted == "0" or (wanted == "auto" and build_cuda.find_nvcc() is None):
            return
        try:
            build_cuda.build(library)
        except build_cuda.BuildError as error:
            if wanted == "1":
                raise SystemExit(f"esat: CUDA kernels were not built: {error}") from error
            print(f"esat: no CUDA kernels: {error}", file=sys.stderr)

    def get_outputs(self) -> list[str]:
        """What was really made: a failed build leaves the note in the library's place."""
        paths = [Path(path) for path in super().get_outputs()]
        return [str(path if path.exists() else path.with_name("_native_build.json")) for path in paths]


setup(ext_modules=[Extension("esat_kernels._esat_native", sources=[])], cmdclass={"build_ext": BuildNative})
