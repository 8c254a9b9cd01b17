"""Runs parts one after the other, each in a process of its own that leaves a JSON file and a log: one that fails takes nothing with it."""

from __future__ import annotations

import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu import cache, children, machine
from benchmarks.gpu.parts import EARLIER, LIBRARY, PARTS, REPOSITORY, TRITON_CACHE, Part, allowed_s, fits, read, write

GRACE_S = 3.0  # for a part that is stopped to stop what it has started
LARGEST = 15 * 2**20  # bytes of an archive
LEAST_S = 8.0  # with less time left no part is started
SAME = ("sources", "device", "torch", "triton")  # facts that a result holds for: a device's table too knows its compilers
Listing = dict[Path, int]  # files and their bytes
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

    folder: gets each part's file and log. facts: what every file carries; those that `SAME` names tell whether an earlier result still holds.
    archive: results, measured tiles, compiled kernels and the library in one file, written anew after every part that ran.
    """
    end = time.monotonic() + seconds
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that a call which is stopped stops its part
    cache.settle(TRITON_CACHE)
    ran: list[tuple[Part, dict[str, Any]]] = []
    left: list[str] = []
    packing_s, apart = 0.0, None
    try:
        for part in parts:
            # What may pass between a part's last moment and the archive behind it: its end, its killed process's, the clocks, the archive.
            remaining = end - time.monotonic() - (grace_s + children.PATIENCE_S + machine.CLOCKS_S) - packing_s
            if not again and _finished(part, folder / f"gpu_{part.name}.json", facts):
                print(f"== {part.name}: finished by an earlier call (--again repeats it)")
                continue
            waits = not set(part.follows).isdisjoint(left)  # for what it goes on from: it would run twice
            if waits or not fits(part, remaining, least_s):
                left.append(part.name)
                continue
            _reopen(part, folder, again)
            ran.append((part, _run(part, folder, facts, allowed_s(part, remaining), remaining, again, grace_s)))
            if archive is not None:
                started = time.monotonic()
                try:
                    apart = pack(folder, archive, apart)
                except OSError as error:  # a full disk: the one before stays, and the results are in the folder
                    print(f"{archive} is not written anew: {error}", flush=True)
                packing_s = max(packing_s, time.monotonic() - started)
    finally:
        signal.signal(signal.SIGTERM, before)
    _say(ran, packing_s)
    failed = [part.name for part, found in ran if not found["ok"]]
    if left:
        print(f"no time was left for {', '.join(left)}: the same command goes on there")
    print(f"failed: {', '.join(failed)}" if failed else "all parts that ran are ok" if left else "all parts ok")
    return 1 if failed or left else 0


def _say(ran: Sequence[tuple[Part, dict[str, Any]]], packing_s: float) -> None:
    """What was planned and what it took."""
    for part, found in ran:
        print(f"{part.name:16} planned {part.planned_s:4} s, took {found['seconds']:6.1f} s  {'ok' if found['ok'] else found['ended']}")
    print(
        f"{'sum':16} planned {sum(part.planned_s for part, _ in ran):4} s, took {sum(found['seconds'] for _, found in ran):6.1f} s", end=""
    )
    print(f", and the archive up to {packing_s:.1f} s each time")


def _holds(found: dict[str, Any], facts: dict[str, object]) -> bool:
    """Whether it was measured on these very sources, this device and these versions."""
    return all(found.get(name) == facts.get(name) for name in SAME)


def _finished(part: Part, path: Path, facts: dict[str, object]) -> bool:
    """Whether an earlier call finished this part here, and what it left is still there."""
    found = read(path)
    return bool(found.get("ok")) and _holds(found, facts) and (part.leaves is None or part.leaves.exists())


def _reopen(part: Part, folder: Path, again: bool) -> None:
    """Parts that follow this one, which is about to run, are to run behind it, in another call if need be; again: from their beginning."""
    for other in PARTS:
        path = folder / f"gpu_{other.name}.json"
        if part.name in other.follows and again:
            path.unlink(missing_ok=True)
            path.with_suffix(EARLIER).unlink(missing_ok=True)
        elif part.name in other.follows and path.is_file():
            write(path, {**read(path), "ok": False, "ended": f"behind it {part.name} ran again"})


def _run(
    part: Part, folder: Path, facts: dict[str, object], seconds: float, remaining: float, again: bool, grace_s: float
) -> dict[str, Any]:
    """Run one part for at most `seconds`; its file says how it ended even if the process did not live to write it. Gives what the file says."""
    path, log = folder / f"gpu_{part.name}.json", folder / f"gpu_{part.name}.log"
    before = path.with_suffix(EARLIER)
    if again or not _holds(read(path) or read(before), facts):
        path.unlink(missing_ok=True)
        before.unlink(missing_ok=True)
    elif path.exists():  # else a call that was itself stopped has put it aside
        path.replace(before)
    started = time.monotonic()
    print(f"== {part.name}: {part.purpose} (planned {part.planned_s} s, at most {seconds:.0f} s of {remaining:.0f} s)", flush=True)
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
            children.stop(process, grace_s if process.poll() is None else 0)  # with what it has started: compilers, tests, the sanitizer
    if process.poll() is None:
        ended += ", did not end when it was killed"
    written = read(path)
    good = bool(written.get("ok")) and code == 0
    # Where it wrote nothing, what the call before had is kept for the next one.
    found = {"part": part.name, **(written or read(before)), "ok": good, "ended": ended, "planned_s": part.planned_s}
    found |= {"seconds": round(time.monotonic() - started, 1), "clocks_after": machine.clocks(), **facts}
    write(path, found)
    before.unlink(missing_ok=True)
    lines = log.read_text(errors="replace").splitlines()[-_LINES[bool(found["ok"])] :]
    print("\n".join(line[:160] for line in lines))
    took = f"took {found['seconds']} s of {part.planned_s} s planned"
    print(f"== {part.name}: {'ok' if found['ok'] else 'FAILED'}, {ended}, {took} -> {path}", flush=True)
    return found


def pack(folder: Path, target: Path, apart: Listing | None = None) -> Listing | None:
    """All that a call leaves, by its place in the repository: unpacked there, and carried to a machine, the next call goes on at once.

    Compiled kernels go into a file of their own, beside `target`, where all together would be too large to be handed back. Gives what lies in that
    file; None if there is none. apart: what the last archive of this call gave: kernels that are packed already are not packed again.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    kept = [*folder.glob("gpu_*"), *folder.glob("table2.json"), *(REPOSITORY / "esat_kernels" / "tuned").glob("*.json")]
    kept += [path for path in (LIBRARY,) if path.is_file()]
    compiled = {path: path.stat().st_size for path in cache.files(TRITON_CACHE)}
    whole = None if apart is not None else _archive([*kept, *compiled], target)
    if whole is None or whole.stat().st_size > LARGEST:
        if compiled != apart:
            kernels = target.with_name(f"kernels-{target.name}")
            _archive(list(compiled), kernels).replace(kernels)
        apart, whole = compiled, _archive(kept, target)
    whole.replace(target)  # a call that is stopped leaves a whole file
    return apart


def _archive(paths: list[Path], target: Path) -> Path:
    """A file beside `target` that is to take its place."""
    partial = target.with_name(target.name + ".partial")
    with tarfile.open(partial, "w:gz", compresslevel=4) as archive:
        for path in sorted(paths):
            inside = path.is_relative_to(REPOSITORY)
            archive.add(path, str(path.relative_to(REPOSITORY)) if inside else f"results/{path.name}")
    return partial
