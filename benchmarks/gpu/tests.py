"""Runs the tests that need a CUDA device and reports each failure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from importlib.util import find_spec
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "tests").rglob("test_*_gpu.py"))


def main(output: Path) -> int:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "--tb=short", "-p", "no:cacheprovider", f"--junitxml={report}", *FILES]
        if find_spec("xdist") is not None:  # most of the time goes into compiling Triton's variants
            command += ["-n", "8"]
        environment = {**os.environ, "ESAT_REQUIRE": "cuda,triton", "PYTHONPATH": str(REPOSITORY)}
        code = subprocess.run(command, cwd=REPOSITORY, env=environment).returncode
        cases = list(ElementTree.parse(report).iter("testcase")) if report.is_file() else []
    bad = {
        f"{case.get('classname')}::{case.get('name')}": (found.text or found.get("message") or "")[-800:]
        for case in cases
        for found in (*case.findall("failure"), *case.findall("error"))
    }
    skipped = {f"{case.get('classname')}::{case.get('name')}": found.get("message") for case in cases for found in case.findall("skipped")}
    # A file that skips as a whole is a failure here: this part exists to run them.
    good = code == 0 and len(cases) > 100 and not skipped
    output.write_text(json.dumps({"ok": good, "tests": len(cases), "failures": bad, "skipped": skipped}))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
