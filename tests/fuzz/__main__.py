"""Feed targets with damaged input, each in a process of its own, and report as JSON lines what surprised.

    python -m tests.fuzz [--target NAME] [--rounds 100] [--first-seed 0]

A surprise: an exception that is no EsatError, a crash, a minute of computing, code of the input run, a file left behind. The seed makes it again.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import av.logging
import torch

from engine.errors import EsatError
from tests.fuzz.targets import PLANTED, TARGETS, Corpus

_SECONDS = 60
_GIB = 3 << 30  # bytes that one input may make the process use on top
_FORBIDDEN = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "shutil.rmtree", "ctypes.dlopen")


def feed(name: str, corpus: Corpus, seed: int, folder: Path) -> str | None:
    """One damaged input. What surprised, or None."""
    try:
        signal.setitimer(signal.ITIMER_PROF, _SECONDS)
        TARGETS[name](corpus, random.Random(f"{name} {seed}"), folder)
    except EsatError as error:
        if not str(error):
            return f"{type(error).__name__} without a word"
    except BaseException as error:  # noqa: BLE001  whatever else comes out is what is looked for
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:300]} ({where.filename}:{where.lineno})"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    if left := [entry.name for entry in folder.iterdir()]:
        return f"left behind: {left}"
    return None


def _child(name: str, corpus: Corpus, seeds: range, progress: Any) -> None:
    """Runs in the forked process. What it is at stands in `progress`, for the case that it dies."""

    def hang(*_: Any) -> None:
        raise TimeoutError(f"no end within {_SECONDS} s of processor time")

    def audit(event: str, arguments: Any) -> None:  # hooks stay for the life of the process
        if event in _FORBIDDEN and armed and arguments[0] != "git":  # the commit that an exported file names
            raise AssertionError(f"input reached {event} {str(arguments)[:200]}")

    armed = False
    faulthandler.enable()
    logging.disable()
    av.logging.set_level(None)
    signal.signal(signal.SIGPROF, hang)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + _GIB, used + _GIB))
    sys.addaudithook(audit)
    armed = True
    with tempfile.TemporaryDirectory(prefix="esat-fuzz-") as work:
        os.chdir(work)
        folder = Path(work) / "files"
        for seed in seeds:
            folder.mkdir()
            progress.value = seed
            found = feed(name, corpus, seed, folder)
            if (Path(work) / PLANTED).exists():
                found = "code of the input was run"
                os.remove(Path(work) / PLANTED)
            if found is not None:
                print(json.dumps({"target": name, "seed": seed, "found": found}), flush=True)
                for path in sorted(folder.rglob("*"), reverse=True):
                    path.rmdir() if path.is_dir() else path.unlink()
            folder.rmdir()
        armed = False
        os.chdir("/")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", choices=sorted(TARGETS), action="append")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # processes are forked
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory(prefix="esat-corpus-") as place:
        corpus = Corpus(Path(place))
        for name in arguments.target or TARGETS:
            progress = context.Value("q", -1)
            seeds = range(arguments.first_seed, arguments.first_seed + arguments.rounds)
            child = context.Process(target=_child, args=(name, corpus, seeds, progress))
            child.start()
            child.join()
            if child.exitcode:
                print(json.dumps({"target": name, "seed": progress.value, "found": f"the process died ({child.exitcode})"}))
            print(json.dumps({"target": name, "rounds": arguments.rounds}), flush=True)


if __name__ == "__main__":
    main()
