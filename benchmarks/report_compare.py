"""Two reports of the same benchmarks: ratio, spread, and what lies outside the noise."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter

Row = dict[str, Any]

# What names a row; the other columns are its figures.
_IDENTITY = ("impl", "backend", "model", "scope", "tokens", "batch", "dtype", "inputs", "threads", "device")
TIMES = ("median_us", "median_ms")
_TAILS = {"median_us": "p99_us", "median_ms": "p99_ms"}
_COLOURS = {"faster": "tab:green", "slower": "tab:red", "within the noise": "tab:gray"}


def identity(row: Row) -> tuple[str, ...]:
    """What two reports must share for their rows to be compared."""
    return tuple(f"{name}={row[name]}" for name in _IDENTITY if name in row)


def label(row: Row) -> str:
    """The identity without what is the same nearly everywhere."""
    hidden = ("backend", "batch", "device", "threads")
    return " ".join(str(row[name]) for name in _IDENTITY if name in row and name not in hidden)


def compare(now: list[Row], before: list[Row]) -> list[Row]:
    """Rows of both reports with their ratio now / before and the wider of both spreads (p99 over median, less 1). `changed` is more than
    a word for noise only where the ratio exceeds that spread."""
    earlier = {identity(row): row for row in before}
    found = []
    for row in now:
        other = earlier.get(identity(row))
        time = next((name for name in TIMES if row.get(name) and other is not None and other.get(name)), None)
        if other is None or time is None:
            continue
        ratio, spread = row[time] / other[time], max(_spread(row, time), _spread(other, time))
        unit = time.rpartition("_")[2]
        found.append(
            {
                "row": label(row),
                f"before {unit}": other[time],
                f"now {unit}": row[time],
                "ratio": ratio,
                "spread": spread,
                "changed": _verdict(ratio, spread),
            }
        )
    return found


def differences(now: Row, before: Row) -> list[str]:
    """How the machines or versions of two reports differ: nothing but the commit should."""
    names = dict.fromkeys([*before, *now])
    return [f"{name}: {before.get(name)} before, {now.get(name)} now" for name in names if before.get(name) != now.get(name)]


def plot(rows: list[Row], path: Path) -> None:
    """Ratio of each row with its spread as a bar; left of 1 is faster."""
    figure = Figure(figsize=(9, 1.2 + 0.22 * len(rows)), layout="constrained")
    axis = figure.subplots()
    for y, row in enumerate(rows):
        spread = min(row["spread"], 9.0)
        ends = [[row["ratio"] * (1 - 1 / (1 + spread))], [row["ratio"] * spread]]
        axis.errorbar(row["ratio"], y, xerr=ends, fmt="o", color=_COLOURS[row["changed"]], markersize=5, linewidth=1)
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_yticks(range(len(rows)), [row["row"] for row in rows], fontsize=7)
    axis.invert_yaxis()
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_xlabel(
        "time now / before, log scale; bars: spread (p99 over median); green faster, red slower, grey within the noise", fontsize=8
    )
    axis.grid(alpha=0.3, axis="x")
    figure.savefig(path, dpi=110)


def _spread(row: Row, time: str) -> float:
    tail = row.get(_TAILS[time])
    return max(0.0, tail / row[time] - 1) if tail else math.inf


def _verdict(ratio: float, spread: float) -> str:
    if abs(math.log(ratio)) <= math.log1p(spread):
        return "within the noise"
    return "faster" if ratio < 1 else "slower"
