"""`esat doctor DIR`: the data set check on the terminal."""

from __future__ import annotations

from pathlib import Path


def doctor_data(directory: Path, layout: str = "auto") -> int:
    """Check a data set and print what was found. Returns the exit code: 0, or 1 if a sequence cannot be evaluated."""
    from rich.console import Console
    from rich.markup import escape

    from engine.datasets.check import check

    report = check(directory, layout)
    console = Console()
    unscored = f", {report.unscored} of them without public ground truth" if report.unscored else ""
    summary = f"{escape(str(directory))}: layout {report.layout}, {report.sequences} sequences{unscored}, {report.frames} frames"
    console.print(summary, soft_wrap=True, highlight=False)
    for finding in report.findings:
        color = "bold red" if finding.level == "error" else "yellow"
        console.print(f"[{color}]{finding.level}[/] {escape(finding.sequence)}: {escape(finding.message)}", soft_wrap=True, highlight=False)
    if not report.findings:
        console.print("[green]nothing wrong[/]")
    return 0 if report.ok else 1
