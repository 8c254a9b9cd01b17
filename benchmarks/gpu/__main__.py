"""Builds, tests, sanitises and times the GPU kernels, in under ten minutes on a bare CUDA machine: `python -m benchmarks.gpu`.

Each part runs in a process of its own and leaves one JSON file, so that a part that fails takes nothing with it, and a second call goes on where
the first one stopped. Without a CUDA device every part says what it would do.

    python -m benchmarks.gpu [--parts build,tests,...] [--peers] [--again] [--output DIR] [--tar FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from benchmarks.gpu import machine
from benchmarks.gpu.parts import EXTRA, PARTS, PEERS, Part

REPOSITORY = Path(__file__).resolve().parents[2]


def _finished(path: Path, commit: str | None) -> bool:
    """Whether an earlier call finished this part, on this very commit without local changes."""
    if commit is None or commit.endswith("-dirty") or not path.is_file():
        return False
    try:
        found = json.loads(path.read_text())
    except ValueError:
        return False
    return bool(found.get("ok")) and found.get("commit") == commit


def _run(part: Part, folder: Path, facts: dict[str, object]) -> bool:
    """Run one part; its file says how it ended even if the process did not live to write it."""
    path = folder / f"gpu_{part.name}.json"
    path.unlink(missing_ok=True)
    started = time.monotonic()
    print(f"== {part.name}: {part.purpose} (at most {part.limit_s} s)", flush=True)
    process = subprocess.Popen(part.command(path), cwd=REPOSITORY, start_new_session=True)
    try:
        code = process.wait(part.limit_s)
        ended = f"exit code {code}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with what it has started: compilers, tests, the sanitizer
        process.wait()
        code, ended = 124, f"stopped after {part.limit_s} s"
    found = json.loads(path.read_text()) if path.is_file() else {"ok": False}
    found = {"part": part.name, **found, "ok": bool(found.get("ok")) and code == 0, "ended": ended}
    found |= {"seconds": round(time.monotonic() - started, 1), **facts}
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(f"== {part.name}: {'ok' if found['ok'] else 'FAILED'}, {ended}, {found['seconds']} s -> {path}", flush=True)
    return bool(found["ok"])


def _pack(folder: Path, target: Path) -> None:
    with tarfile.open(target, "w:gz") as archive:
        for path in sorted((*folder.glob("gpu_*"), *folder.glob("table2.json"))):
            archive.add(path, path.name)
        for path in sorted((REPOSITORY / "esat_kernels" / "tuned").glob("*.json")):  # what the part `tune` writes
            archive.add(path, f"tuned/{path.name}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Build, test, sanitise and time the GPU kernels.")
    names = [part.name for part in (*PARTS, *EXTRA)]
    parser.add_argument("--parts", help=f"only these, with commas: {','.join(names)}")
    parser.add_argument("--peers", action="store_true", help="only the slow peers (torch.compile and FlexAttention, autotuned)")
    parser.add_argument("--again", action="store_true", help="run parts that an earlier call finished on this commit once more")
    parser.add_argument("--output", type=Path, help="folder of the JSON files; default benchmarks/results/<device>")
    parser.add_argument(
        "--tar", type=Path, help="pack that folder into this one file after every part, for machines that hand back few files"
    )
    options = parser.parse_args()
    chosen = options.parts.split(",") if options.parts else [PEERS.name] if options.peers else [part.name for part in PARTS]
    unknown = sorted(set(chosen) - set(names))
    if unknown:
        parser.error(f"unknown parts {', '.join(unknown)}: expected some of {', '.join(names)}")
    parts = [part for part in (*PARTS, *EXTRA) if part.name in chosen]

    reason = machine.no_gpu()
    folder = options.output or REPOSITORY / "benchmarks" / "results" / (machine.device_folder() if reason is None else "DEVICE")
    if reason is not None:
        print(f"{reason}: nothing is run. On a CUDA machine this command would do:")
        for part in parts:
            print(f"{part.name}: {part.purpose} (at most {part.limit_s} s)")
            print("    " + " ".join(part.command(folder / f"gpu_{part.name}.json")))
        if options.parts is None and not options.peers:
            print(f"Only when named with --parts: {', '.join(f'{part.name} ({part.purpose})' for part in EXTRA)}")
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    facts = machine.facts(REPOSITORY)
    failed = []
    for part in parts:
        if not options.again and _finished(folder / f"gpu_{part.name}.json", str(facts["commit"]) if facts["commit"] else None):
            print(f"== {part.name}: finished by an earlier call (--again repeats it)")
        elif not _run(part, folder, facts):
            failed.append(part.name)
            if part.name == "build":
                print("== the build failed: the CUDA kernel will be missing from the other parts")
        if options.tar is not None:
            _pack(folder, options.tar)
    print(f"failed: {', '.join(failed)}" if failed else "all parts ok")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
