"""What every benchmark shares: interleaved timing, a description of the machine, rows as JSON lines."""

from __future__ import annotations

import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import esat_kernels
from engine.cli.machine import cpu_name
from engine.commit import commit_of
from engine.datasets.text import Floats
from engine.errors import ConfigError
from engine.files import PendingFile

_REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Timing:
    """Microseconds of one implementation; p99 of few calls is their maximum."""

    median_us: float
    p99_us: float
    calls: int


def mean_and_error(values: Floats) -> tuple[float, float | None]:
    """The mean and its standard error, which one value alone does not tell."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


def rounds(clocks: Mapping[str, Callable[[], float]], seconds: float = 0.0, least: int = 1, warm_up: int = 0) -> dict[str, list[float]]:
    """Readings of all clocks in turn (A B A B) for `seconds`, after `warm_up` rounds that do not count: what disturbs one disturbs all."""
    times: dict[str, list[float]] = {name: [] for name in clocks}
    start, done = time.perf_counter(), -warm_up
    while done < least or time.perf_counter() - start < seconds:
        if done == 0:
            start = time.perf_counter()
        for name, clock in clocks.items():
            value = clock()
            if done >= 0:
                times[name].append(value)
        done += 1
    return times


def stopwatch(run: Callable[[], object], before: int = 0) -> Callable[[], float]:
    """A clock: the microseconds of a call, behind `before` calls that do not count."""

    def clock() -> float:
        for _ in range(before):
            run()
        begin = time.perf_counter()
        run()
        return 1e6 * (time.perf_counter() - begin)

    return clock


def interleaved(runs: Mapping[str, Callable[[], object]], seconds: float, warm_up: int = 3, least_rounds: int = 15) -> dict[str, Timing]:
    """All functions in turn, as `rounds`, after `warm_up` calls of each."""
    for run in runs.values():
        for _ in range(warm_up):
            run()
    times = rounds({name: stopwatch(run) for name, run in runs.items()}, seconds, least_rounds)
    return {name: summary(values) for name, values in times.items()}


def summary(microseconds: Sequence[float]) -> Timing:
    """Median and 99th percentile (nearest rank)."""
    ordered = sorted(microseconds)
    rank = math.ceil(99 * len(ordered) / 100)  # of 1, 2, ...
    return Timing(statistics.median(ordered), ordered[rank - 1], len(ordered))


def machine() -> dict[str, Any]:
    """What a figure depends on beside the code: processor, instruction set, threads, versions, commit, whether the tree had changes."""
    found = commit_of(_REPOSITORY, "benchmarks/results")  # new results are no change of the code
    return {
        "cpu": cpu_name(),
        "isa": esat_kernels.cpu_isa() if esat_kernels.backends()["cpu"] is None else None,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": None if found is None else found.hash[:12],
        "dirty": None if found is None else found.changed,
    }


def keep(stem: Path, content: Mapping[str, Any], markdown: str) -> None:
    """A result as `stem`.json and as `stem`.md, each there whole or as it was."""
    for suffix, text in ((".json", json.dumps(content, indent=1) + "\n"), (".md", markdown)):
        with PendingFile(stem.with_name(stem.name + suffix)) as pending:
            pending.partial.write_text(text)


def write_rows(rows: Sequence[Mapping[str, Any]], target: str | None) -> None:
    """JSON lines to the file `target`, to standard output for "-", nowhere for None."""
    if target is None:
        return
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if target == "-":
        sys.stdout.write(lines)
        return
    try:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).write_text(lines)
    except OSError as error:
        raise ConfigError(f"--json {target}: {error.strerror}") from error


def numbers(text: str, option: str, least: int = 1) -> list[int]:
    """Integers of `least` (1 or 0) and more with commas. ConfigError for anything else."""
    wanted = "positive integers" if least else "integers of zero and more"
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{option} must be {wanted} with commas, got {text!r}") from error
    if any(value < least for value in values):
        raise ConfigError(f"{option} must be {wanted} with commas, got {text!r}")
    return values


def distinct(names: Sequence[str]) -> list[str]:
    """The names of what is compared. ConfigError if two are equal: one's figures would be taken for the other's."""
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"expected files of different names, got {', '.join(twice)} twice")
    return list(names)


def choices(text: str, allowed: Sequence[str], option: str) -> list[str]:
    """Names with commas, each of `allowed`. ConfigError for anything else."""
    names = text.split(",")
    if unknown := [name for name in names if name not in allowed]:
        raise ConfigError(f"{option} must be of {', '.join(allowed)}, got {', '.join(unknown)}")
    return names
