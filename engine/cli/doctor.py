"""`esat doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def doctor(
    directory: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="A data set to check instead of the environment.")] = None,
    layout: Annotated[str, typer.Option(help="The data set's layout, as in `esat eval`.")] = "auto",
) -> None:
    """Check the environment: packages, native library, threads, video encoding, weights. Exit code 2 if something will not work.

    With DIR, check a data set: lengths, boxes, labels, damaged images. Exit code 1 if a sequence of it cannot be evaluated.
    """
    raise typer.Exit(_environment() if directory is None else _dataset(directory, layout))


def _environment() -> int:
    """Print what is found; the exit code."""
    from rich.markup import escape

    from engine.cli.environment import check_environment
    from engine.cli.terminal import terminal

    console = terminal(highlight=False)
    findings = check_environment()
    style = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    for finding in findings:
        console.print(f"[{style[finding.level]}]{finding.level:4}[/] {finding.check:15} {escape(finding.message)}", soft_wrap=True)
    return 2 if any(finding.level == "fail" for finding in findings) else 0


def _dataset(directory: Path, layout: str) -> int:
    """Print what is found; the exit code."""
    from rich.markup import escape

    from engine.cli.terminal import terminal
    from engine.datasets.check import check

    report = check(directory, layout)
    console = terminal(highlight=False)
    unscored = f", {report.unscored} of them without public ground truth" if report.unscored else ""
    summary = f"{escape(str(directory))}: layout {report.layout}, {report.sequences} sequences{unscored}, {report.frames} frames"
    console.print(summary, soft_wrap=True)
    for finding in report.findings:
        color = "bold red" if finding.level == "error" else "yellow"
        where = f" {escape(finding.sequence)}:" if finding.sequence else ""
        console.print(f"[{color}]{finding.level}[/]{where} {escape(finding.message)}", soft_wrap=True)
    if not report.findings:
        console.print("[green]nothing wrong[/]")
    return 0 if report.ok else 1
