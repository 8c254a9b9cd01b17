"""Runs parts one after the other, each in a process of its own that leaves a JSON file and a log: one that fails takes nothing with it."""

from __future__ import annotations

import json
import subprocess
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu import machine
from benchmarks.gpu.children import stop
from benchmarks.gpu.parts import Part, write

REPOSITORY = Path(__file__).resolve().parents[2]
GRACE_S = 3.0  # for a part that is stopped to stop what it has started
LEAST_S = 8.0  # with less time left no part is started
_LINES = {True: 8, False: 40}  # of a part's log that are printed, by whether it ended well


def run_parts(
    parts: Sequence[Part],
    folder: Path,
    facts: dict[str, object],
    seconds: float,
    again: bool = False,
    archive: Path | None = None,
    grace_s: float = GRACE_S,
    least_s: float = LEAST_S,
) -> int:
    """Run what an earlier call with these `facts` has not finished (`again`: all) within `seconds`; 0 if all parts are ok, else 1.

    folder: gets each part's file and log. facts: what every file carries; "sources" tells whether an earlier result still holds.
    archive: the folder in one file, written anew after every part.
    """
    end = time.monotonic() + seconds
    failed, left = [], []
    for part in parts:
        remaining = end - time.monotonic() - grace_s
        if not again and _finished(part, folder / f"gpu_{part.name}.json", facts["sources"]):
            print(f"== {part.name}: finished by an earlier call (--again repeats it)")
        elif remaining < least_s:
            left.append(part.name)
        elif not _run(part, folder, facts, min(part.limit_s, remaining), grace_s):
            failed.append(part.name)
            if part.name == "build":
                print("== the build failed: the CUDA kernel will be missing from the other parts")
        if archive is not None:
            _pack(folder, archive)
    if left:
        print(f"no time was left for {', '.join(left)}: the same command goes on there")
    print(f"failed: {', '.join(failed)}" if failed else "all parts that ran are ok" if left else "all parts ok")
    return 1 if failed or left else 0


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


def _run(part: Part, folder: Path, facts: dict[str, object], seconds: float, grace_s: float) -> bool:
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
            stop(process, grace_s if process.poll() is None else 0)  # with what it has started: compilers, tests, the sanitizer
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
