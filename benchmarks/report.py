"""One Markdown report of all benchmarks on this machine, with a plot and a comparison with an earlier report.

    python -m benchmarks.report [--out DIR] [--only attention,frame,table2] [--compare DIR]

Every benchmark writes DIR/NAME.jsonl (its rows as they are) and DIR/report.md, DIR/report.png are made from those files alone.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from matplotlib.figure import Figure
from rich.console import Console

from engine.cli.exits import run_function
from engine.errors import ConfigError, EsatError

BENCHMARKS = ("attention", "frame", "table2")
Row = dict[str, Any]

# What names a row; the other columns are its figures.
_IDENTITY = ("impl", "backend", "model", "scope", "tokens", "batch", "dtype", "inputs", "abs", "pn", "fda", "device")
_TIMES = ("median_us", "median_ms")
_TAILS = {"median_us": "p99_us", "median_ms": "p99_ms"}


class BenchmarkError(EsatError):
    """A benchmark that did not run to its end."""


def read_rows(path: Path) -> list[Row]:
    """JSON lines. ConfigError for a line that is none."""
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path}, line {number}: expected a JSON object, got {line[:60]!r}") from error
        if isinstance(row, dict):
            rows.append(row)
    return rows


def identity(row: Row) -> tuple[str, ...]:
    """What two reports must share for their rows to be compared."""
    return tuple(f"{name}={row[name]}" for name in _IDENTITY if name in row)


def compare(now: list[Row], before: list[Row]) -> list[Row]:
    """Rows of both reports with their ratio now / before. `changed` only where it exceeds the spread (p99 over median) of both."""
    earlier = {identity(row): row for row in before}
    found = []
    for row in now:
        other = earlier.get(identity(row))
        time = next((name for name in _TIMES if row.get(name) and other is not None and other.get(name)), None)
        if other is None or time is None:
            continue
        ratio = row[time] / other[time]
        spread = max(_spread(row, time), _spread(other, time))
        found.append(
            {"row": " ".join(identity(row)), "before": other[time], "now": row[time], "ratio": ratio, "changed": _verdict(ratio, spread)}
        )
    return found


def _spread(row: Row, time: str) -> float:
    tail = row.get(_TAILS[time])
    return max(0.0, tail / row[time] - 1) if tail else math.inf


def _verdict(ratio: float, spread: float) -> str:
    if abs(math.log(ratio)) <= math.log1p(spread):
        return "within the noise"
    return "faster" if ratio < 1 else "slower"


def table(rows: list[Row]) -> str:
    """A Markdown table with the union of the rows' plain columns."""
    if not rows:
        return "No rows."
    columns = list(dict.fromkeys(name for row in rows for name, value in row.items() if not isinstance(value, dict | list)))
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(name)) for name in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "/")


def markdown(results: dict[str, list[Row]], machine: Row, before: dict[str, list[Row]]) -> str:
    """The whole report."""
    parts = ["# Benchmarks", "", table([machine]), ""]
    for name, rows in results.items():
        parts += [f"## {name}", "", table(rows), ""]
        if name in before:
            parts += [f"### {name} against the earlier report", "", table(compare(rows, before[name])), ""]
    parts += [
        "![median times](report.png)",
        "",
        "Bars: medians of the rows that passed their accuracy check. What was not measured is not in the tables.",
        "",
    ]
    return "\n".join(parts)


def plot(path: Path, results: dict[str, list[Row]]) -> None:
    """Medians as bars, one panel for each benchmark that has times."""
    timed = {name: [row for row in rows if any(row.get(time) for time in _TIMES) and row.get("ok", True)] for name, rows in results.items()}
    timed = {name: rows for name, rows in timed.items() if rows}
    figure = Figure(figsize=(11, 1 + 0.28 * max(1, sum(map(len, timed.values())))), layout="constrained")
    heights = [len(rows) for rows in timed.values()] or [1]
    axes = figure.subplots(max(1, len(timed)), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axis, (name, rows) in zip(axes, timed.items(), strict=False):
        unit = next(time for time in _TIMES if rows[0].get(time))
        labels = [" ".join(part.split("=", 1)[1] for part in identity(row) if not part.startswith(("device=", "backend="))) for row in rows]
        colours = ["tab:blue" if str(row.get("impl", "")).startswith("ours") else "tab:gray" for row in rows]
        axis.barh(range(len(rows)), [row.get(unit) or 0 for row in rows], color=colours)
        axis.set_yticks(range(len(rows)), labels, fontsize=7)
        axis.invert_yaxis()
        axis.set_title(name, fontsize=10)
        axis.set_xlabel(unit.replace("_", ", "), fontsize=8)
    figure.savefig(path, dpi=110)


def main(
    out: Annotated[Path, typer.Option(help="Folder for the rows and the report.")] = Path("out/bench"),
    only: Annotated[str, typer.Option(help="Which benchmarks, with commas.")] = ",".join(BENCHMARKS),
    against: Annotated[Path | None, typer.Option("--compare", help="Folder of an earlier report.")] = None,
    reuse: Annotated[bool, typer.Option("--reuse", help="Make the report from the rows that are there, without running.")] = False,
) -> None:
    """Run the benchmarks and write one report."""
    from benchmarks.harness import machine

    names = only.split(",")
    if unknown := sorted(set(names) - set(BENCHMARKS)):
        raise ConfigError(f"--only must be of {', '.join(BENCHMARKS)}, got {', '.join(unknown)}")
    if against is not None and not against.is_dir():
        raise ConfigError(f"--compare: no such folder: {against}")
    out.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    for name in names:
        if reuse:
            continue
        console.rule(name)
        result = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", "--json", str(out / f"{name}.jsonl")])
        if result.returncode not in (0, 1):  # 1: a row failed its accuracy check, which the report shows
            raise BenchmarkError(f"benchmarks.{name} ended with exit code {result.returncode}")
    results = {name: read_rows(out / f"{name}.jsonl") for name in names if (out / f"{name}.jsonl").exists()}
    before = {name: read_rows(against / f"{name}.jsonl") for name in names if against is not None and (against / f"{name}.jsonl").exists()}
    plot(out / "report.png", results)
    (out / "report.md").write_text(markdown(results, machine(), before))
    console.print(out / "report.md", highlight=False)


if __name__ == "__main__":
    run_function(main)
