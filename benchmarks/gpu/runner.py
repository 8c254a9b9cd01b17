"""Runs parts one after the other, each in a process of its own that leaves a JSON file and a log: one that fails takes nothing with it."""

from __future__ import annotations

import json
import subprocess
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu import cache, machine
from benchmarks.gpu.children import stop
from benchmarks.gpu.parts import LIBRARY, REPOSITORY, TRITON_CACHE, Part, write

GRACE_S = 3.0  # for a part that is stopped to stop what it has started
LARGEST = 15 * 2**20  # bytes of an archive
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

    folder: gets each part's file and log. facts: what every file carries; "sources" and "device" tell whether an earlier result still holds.
    archive: results, measured tiles, compiled kernels and the library in one file, written anew after every part that ran.
    """
    end = time.monotonic() + seconds
    cache.settle(TRITON_CACHE)
    failed, left = [], []
    for part in parts:
        remaining = end - time.monotonic() - grace_s
        if not again and _finished(part, folder / f"gpu_{part.name}.json", facts):
            print(f"== {part.name}: finished by an earlier call (--again repeats it)")
            continue
        if remaining < least_s:
            left.append(part.name)
            continue
        if not _run(part, folder, facts, min(part.limit_s, remaining), grace_s):
            failed.append(part.name)
        if archive is not None:
            pack(folder, archive)
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


def _finished(part: Part, path: Path, facts: dict[str, object]) -> bool:
    """Whether an earlier call finished this part on these very sources and this device, and what it left is still there."""
    found = _read(path)
    same = all(found.get(name) == facts[name] for name in ("sources", "device"))
    return bool(found.get("ok")) and same and (part.leaves is None or part.leaves.exists())


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
    if process.poll() is None:
        ended += ", did not end when it was killed"
    found = _read(path)
    found = {"part": part.name, **found, "ok": bool(found.get("ok")) and code == 0, "ended": ended}
    found |= {"seconds": round(time.monotonic() - started, 1), "clocks_after": machine.clocks(), **facts}
    write(path, found)
    lines = log.read_text(errors="replace").splitlines()[-_LINES[bool(found["ok"])] :]
    print("\n".join(line[:160] for line in lines))
    print(f"== {part.name}: {'ok' if found['ok'] else 'FAILED'}, {ended}, {found['seconds']} s -> {path}", flush=True)
    return bool(found["ok"])


def pack(folder: Path, target: Path) -> None:
    """All that a call leaves, by its place in the repository: unpacked there, and carried to a machine, the next call goes on at once.

    Compiled kernels go into a file of their own, beside `target`, where all together would be too large to be handed back.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    kept = [*folder.glob("gpu_*"), *folder.glob("table2.json"), *(REPOSITORY / "esat_kernels" / "tuned").glob("*.json")]
    kept += [path for path in (LIBRARY,) if path.is_file()]
    compiled = cache.files(TRITON_CACHE)
    _write_archive([*kept, *compiled], target)
    if target.stat().st_size > LARGEST:
        _write_archive(compiled, target.with_name(f"kernels-{target.name}"))
        _write_archive(kept, target)


def _write_archive(paths: list[Path], target: Path) -> None:
    partial = target.with_name(target.name + ".partial")
    with tarfile.open(partial, "w:gz", compresslevel=4) as archive:
        for path in sorted(paths):
            inside = path.is_relative_to(REPOSITORY)
            archive.add(path, str(path.relative_to(REPOSITORY)) if inside else f"results/{path.name}")
    partial.replace(target)  # a call that is stopped leaves a whole file
