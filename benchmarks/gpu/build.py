"""Builds the native library, CUDA kernels included, and runs its C++ tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def main(output: Path) -> int:
    folder = REPOSITORY / "build" / "gpu"
    steps = [
        ["cmake", "-S", ".", "-B", folder, f"-DPython_EXECUTABLE={sys.executable}", "-DESAT_CUDA=1", "-DESAT_TESTS=ON"],
        ["cmake", "--build", folder, "--parallel", str(os.cpu_count() or 2)],
        ["ctest", "--test-dir", folder, "--output-on-failure", "-R", "cuda"],
    ]
    code, log = 0, ""
    for step in steps:
        done = subprocess.run(list(map(str, step)), cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        code, log = done.returncode, log + done.stdout
        if code != 0:
            break
    output.write_text(json.dumps({"ok": code == 0, "log_end": log[-3000:]}))
    if code != 0:
        print(log[-3000:])
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
