"""Checks and times the GPU kernels and the engine in under ten minutes on a bare CUDA machine: `make gpu`, or `python -m benchmarks.gpu`.

Three stages, in the order of what they tell. Each part runs in a process of its own and leaves a JSON file and a log, so that a part that fails
takes nothing with it; after each one the archive is complete, and a second call goes on where the first one stopped. Without a CUDA device every
part says what it would do.

    python -m benchmarks.gpu [--stages a,b,c | --parts attention,tests,...] [--peers] [--again] [--minutes 9.4] [--output DIR] [--tar FILE]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from benchmarks.gpu import machine
from benchmarks.gpu.parts import EXTRA, MINUTES, PARTS, PEERS, REPOSITORY, STAGES, STRETCH, TRITON_CACHE, WORK, Part
from benchmarks.gpu.runner import run_parts

_ALL = (*PARTS, *PEERS, *EXTRA)


def chosen_parts(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[Part]:
    """In their order."""
    known = list(STAGES) if options.stages else [part.name for part in _ALL]
    asked = (options.parts or options.stages or "").split(",")
    unknown = sorted(set(asked) - set(known) - {""})
    if unknown:
        what = "stages" if options.stages else "parts"
        parser.error(f"unknown {what} {', '.join(unknown)}: expected some of {', '.join(known)}")
    if options.parts:  # with what takes up their results: tiles that are measured anew take the place of those that a frame chose
        chosen: list[Part] = []
        for part in _ALL:
            if part.name in asked or {other.name for other in chosen} & set(part.follows):
                chosen.append(part)
        return chosen
    parts = [part for name, stage in STAGES.items() if not options.stages or name in asked for part in stage]
    return [*parts, *(PEERS if options.peers else ())]


def say(parts: list[Part], folder: Path) -> None:
    """What would be done, and how long it may take."""
    for name, stage in STAGES.items():
        within = [part for part in stage if part in parts]
        if within:
            print(f"stage {name}, {sum(part.planned_s for part in within)} s planned")
        for part in within:
            _say_part(part, folder)
    for part in parts:
        if part not in PARTS:
            _say_part(part, folder)


def _say_part(part: Part, folder: Path) -> None:
    print(f"  {part.name}: {part.purpose} ({part.planned_s} s planned, at most {STRETCH * part.planned_s:.0f} s where time is left)")
    print("      " + " ".join(part.command(folder / f"gpu_{part.name}.json")))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Check and time the GPU kernels and the engine.")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--stages", help="only these, with commas: a, b, c")
    group.add_argument("--parts", help=f"only these and what follows from them, with commas: {','.join(part.name for part in _ALL)}")
    parser.add_argument("--peers", action="store_true", help="behind the stages also compiled peers, with what time is left")
    parser.add_argument("--again", action="store_true", help="run parts that an earlier call finished once more")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of this call; parts that do not fit are left to the next")
    parser.add_argument("--output", type=Path, default=WORK / "results", help="folder of the JSON files; default build/gpu/results")
    parser.add_argument("--tar", type=Path, help="the archive; default gpu.tar.gz in the folder that OUT or OUTPUT names, else in out/")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    parts = chosen_parts(parser, options)
    folder = options.output.resolve()
    archive = options.tar or Path(os.environ.get("OUT") or os.environ.get("OUTPUT") or "out") / "gpu.tar.gz"

    reason = machine.no_gpu()
    if reason is not None:
        print(f"{reason}: nothing is run. On a CUDA machine this command would do:")
        say(parts, folder)
        planned = sum(part.planned_s for part in parts if part in PARTS)
        print(f"{planned} s planned in all, {60 * options.minutes:.0f} s at most. After each part: {archive}; kernels in {TRITON_CACHE}")
        others = [part for part in _ALL if part not in parts and part not in PARTS]
        print(f"Only with --peers or when named with --parts: {', '.join(f'{part.name} ({part.purpose})' for part in others)}")
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    TRITON_CACHE.mkdir(parents=True, exist_ok=True)
    facts = machine.facts(REPOSITORY)
    print(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
    return run_parts(parts, folder, facts, end - time.monotonic(), options.again, archive)


if __name__ == "__main__":
    sys.exit(main())
