"""Builds, tests, sanitises and times the GPU kernels, in under ten minutes on a bare CUDA machine: `python -m benchmarks.gpu`.

Each part runs in a process of its own and leaves a JSON file and a log, so that a part that fails takes nothing with it, and a second call goes
on where the first one stopped. Without a CUDA device every part says what it would do.

    python -m benchmarks.gpu [--parts build,tests,...] [--peers] [--again] [--minutes 9.4] [--output DIR] [--tar FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from benchmarks.gpu import machine
from benchmarks.gpu.children import stop
from benchmarks.gpu.parts import EXTRA, MINUTES, PARTS, PEERS, Part, write

REPOSITORY = Path(__file__).resolve().parents[2]
_GRACE_S = 3.0  # for a part that is stopped to stop what it has started
_LEAST_S = 8.0  # with less time left no part is started
_LINES = {True: 8, False: 40}  # of a part's log that are printed, by whether it ended well


def _read(path: Path) -> dict[str, object]:
    """A part's file; empty if it is missing or no JSON."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _finished(part: Part, path: Path, sources: object) -> bool:
    """Whether an earlier call finished this part on these very sources."""
    found = _read(path)
    return not part.always and bool(found.get("ok")) and found.get("sources") == sources


def _run(part: Part, folder: Path, facts: dict[str, object], seconds: float) -> bool:
    """Run one part for at most `seconds`; its file says how it ended even if the process did not live to write it."""
    path, log = folder / f"gpu_{part.name}.json", folder / f"gpu_{part.name}.log"
    path.unlink(missing_ok=True)
    started = time.monotonic()
    print(f"== {part.name}: {part.purpose} (at most {seconds:.0f} s)", flush=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            part.command(path),
            cwd=REPOSITORY,
            env=part.environment(seconds),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(seconds)
            ended = f"exit code {code}"
        except subprocess.TimeoutExpired:
            code, ended = 124, f"stopped after {seconds:.0f} s"
        finally:
            stop(process, _GRACE_S if process.poll() is None else 0)  # with what it has started: compilers, tests, the sanitizer
    found = _read(path)
    found = {"part": part.name, **found, "ok": bool(found.get("ok")) and code == 0, "ended": ended}
    found |= {"seconds": round(time.monotonic() - started, 1), "clocks_after": machine.clocks(), **facts}
    write(path, found)
    lines = log.read_text(errors="replace").splitlines()[-_LINES[bool(found["ok"])] :]
    print("\n".join(line[:160] for line in lines))
    print(f"== {part.name}: {'ok' if found['ok'] else 'FAILED'}, {ended}, {found['seconds']} s -> {path}", flush=True)
    return bool(found["ok"])


def _pack(folder: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    with tarfile.open(partial, "w:gz") as archive:
        for path in sorted((*folder.glob("gpu_*"), *folder.glob("table2.json"))):
            archive.add(path, path.name)
        for path in sorted((REPOSITORY / "esat_kernels" / "tuned").glob("*.json")):  # what the part `tune` writes
            archive.add(path, f"tuned/{path.name}")
    partial.replace(target)  # a call that is stopped leaves a whole file


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Build, test, sanitise and time the GPU kernels.")
    names = [part.name for part in (*PARTS, *EXTRA)]
    parser.add_argument("--parts", help=f"only these, with commas: {','.join(names)}")
    parser.add_argument("--peers", action="store_true", help="only the slow peers (torch.compile and FlexAttention, autotuned)")
    parser.add_argument("--again", action="store_true", help="run parts that an earlier call finished on these sources once more")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of this call; parts that do not fit are left to the next")
    parser.add_argument("--output", type=Path, help="folder of the JSON files; default benchmarks/results/<device>")
    parser.add_argument(
        "--tar", type=Path, help="pack that folder into this one file after every part, for machines that hand back few files"
    )
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
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
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    facts = machine.facts(REPOSITORY)
    print(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
    failed, left = [], []
    for part in parts:
        remaining = end - time.monotonic() - _GRACE_S
        if not options.again and _finished(part, folder / f"gpu_{part.name}.json", facts["sources"]):
            print(f"== {part.name}: finished by an earlier call (--again repeats it)")
        elif remaining < _LEAST_S:
            left.append(part.name)
        elif not _run(part, folder, facts, min(part.limit_s, remaining)):
            failed.append(part.name)
            if part.name == "build":
                print("== the build failed: the CUDA kernel will be missing from the other parts")
        if options.tar is not None:
            _pack(folder, options.tar)
    if left:
        print(f"no time was left for {', '.join(left)}: the same command goes on there")
    print(f"failed: {', '.join(failed)}" if failed else "all parts that ran are ok" if left else "all parts ok")
    return 1 if failed or left else 0


if __name__ == "__main__":
    sys.exit(main())
