"""Does the engine agree with public code? Checks golden files of any of the kinds forward, attention, loop, crops and metrics.

    python -m benchmarks.parity FILE... [--backend reference] [--dtype fp32] [--device cpu] [--json FILE|-]

Exit code 0: all agree; 1: a file does not; 2: a file cannot be used, or the backend or device is not there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.harness import write_rows
from conformance import golden
from conformance.checks import CHECKS
from conformance.findings import Target
from engine.cli.exits import run_function
from engine.errors import ConfigError, DatasetError, EsatError
from engine.runners.device import resolve_device
from engine.runners.protocol import DTYPES

_BACKENDS = ("reference", "cpu", "triton", "cuda", "auto")


def check_file(path: Path, target: Target) -> dict[str, Any]:
    """One row: file, kind, max_abs_error, removed_equal (None where nothing is eliminated), ok, and details. EsatError: unusable file."""
    content = golden.load(path)
    kind = content["kind"]
    if kind not in CHECKS:
        raise DatasetError(f"{path}: kind must be one of {', '.join(CHECKS)}, got {kind!r}")
    try:
        finding = CHECKS[kind](path, content, target)
    except KeyError as error:
        raise DatasetError(f"{path}: a file of kind {kind!r} must hold {error}") from error
    return {
        "file": path.name,
        "kind": kind,
        "max_abs_error": finding.max_abs_error,
        "removed_equal": finding.removed_equal,
        "ok": finding.ok,
        "backend": target.backend,
        "dtype": target.dtype,
        "device": target.device,
        "details": finding.details,
    }


def main(
    files: Annotated[list[Path], typer.Argument(help="golden files (.npz, .json)")],
    backend: Annotated[str, typer.Option(help=f"one of {', '.join(_BACKENDS)}")] = "reference",
    dtype: Annotated[str, typer.Option(help=f"one of {', '.join(DTYPES)}")] = "fp32",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N or auto")] = "cpu",
    json_output: Annotated[str | None, typer.Option("--json", help="JSON lines to this file, - for standard output")] = None,
) -> None:
    """Compare the engine with golden files of public code."""
    errors = Console(stderr=True)
    target = _target(backend, dtype, device)
    rows, unusable = [], False
    for path in files:
        try:
            rows.append(check_file(path, target))
        except (EsatError, NotImplementedError) as error:
            unusable = True
            rows.append({"file": path.name, "kind": None, "max_abs_error": None, "removed_equal": None, "ok": False, "error": str(error)})
            errors.print(f"error: {error}", soft_wrap=True, highlight=False, markup=False)
    write_rows(rows, json_output)
    wide = None if sys.stdout.isatty() else 110
    console = Console(stderr=json_output == "-", width=wide)
    console.print(_table(rows, target))
    for row in rows:
        if notes := _notes(row.get("details", {})):
            console.print(f"{row['file']}: {notes}", soft_wrap=True, highlight=False, markup=False)
    if unusable:
        raise typer.Exit(2)
    if not all(row["ok"] for row in rows):
        raise typer.Exit(1)


def _target(backend: str, dtype: str, device: str) -> Target:
    if backend not in _BACKENDS:
        raise ConfigError(f"--backend must be one of {', '.join(_BACKENDS)}, got {backend!r}")
    if dtype not in DTYPES:
        raise ConfigError(f"--dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    return Target(backend, dtype, resolve_device(device))


def _table(rows: list[dict[str, Any]], target: Target) -> Table:
    table = Table(title=f"Agreement with public code: backend {target.backend}, {target.dtype}, {target.device}")
    for column in ("file", "kind", "max abs error", "removed equal", "ok"):
        table.add_column(column, justify="right" if column == "max abs error" else "left", overflow="fold")
    for row in rows:
        error, equal = row["max_abs_error"], row["removed_equal"]
        table.add_row(
            row["file"],
            row["kind"] or "?",
            "" if error is None else f"{error:.2e}",
            "" if equal is None else ("yes" if equal else "no"),
            "[green]ok[/]" if row["ok"] else "[bold red]FAILED[/]",
        )
    return table


def _notes(details: dict[str, Any]) -> str:
    shown = []
    for key in (
        "max_rel_error",
        "max_abs_error_fp64",
        "removed_overlap",
        "box_iou",
        "cell_equal",
        "mean_iou",
        "median_iou",
        "out_over_yardstick",
        "dq_over_yardstick",
        "dk_over_yardstick",
        "gradients",
        "runner",
        "figures",
        "worst",
    ):
        if key in details:
            value = details[key]
            shown.append(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}")
    return "; ".join(shown)


if __name__ == "__main__":
    run_function(main)
