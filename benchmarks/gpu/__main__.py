"""Builds, tests, sanitises and times the GPU kernels, in under ten minutes on a bare CUDA machine: `python -m benchmarks.gpu`.

Each part runs in a process of its own and leaves a JSON file and a log, so that a part that fails takes nothing with it, and a second call goes
on where the first one stopped. Without a CUDA device every part says what it would do.

    python -m benchmarks.gpu [--parts build,tests,...] [--peers] [--again] [--minutes 9.4] [--output DIR] [--tar FILE]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks.gpu import machine
from benchmarks.gpu.parts import EXTRA, MINUTES, PARTS, PEERS
from benchmarks.gpu.runner import REPOSITORY, run_parts


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
    return run_parts(parts, folder, facts, end - time.monotonic(), options.again, options.tar)


if __name__ == "__main__":
    sys.exit(main())
