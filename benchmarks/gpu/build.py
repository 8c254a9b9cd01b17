"""The CUDA library as it lies here, or built by nvcc if it is missing or of other sources; then it is loaded, without PyTorch."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.parts import LIBRARY, REPOSITORY, write


def load(path: Path) -> str:
    """What the library says of itself. OSError or AttributeError if it cannot be loaded or is another one."""
    about = ctypes.CDLL(str(path), mode=os.RTLD_NOW).esat_cuda_about
    about.restype = ctypes.c_char_p
    return about().decode()


def main(output: Path, library: Path = LIBRARY) -> int:
    command = [sys.executable, str(REPOSITORY / "csrc" / "build_cuda.py"), "--output", str(library)]
    code = subprocess.run(command, stderr=subprocess.STDOUT).returncode
    try:
        about = load(library)
    except (OSError, AttributeError) as error:
        print(f"{library.name} does not load: {error}")
        write(output, {"ok": False, "why": str(error)})
        return 1
    print(about)
    write(output, {"ok": code == 0, "about": about})
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
