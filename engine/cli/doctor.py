"""`esat doctor`."""

from __future__ import annotations

import typer


def doctor() -> None:
    """Check the environment: packages, native library, threads, video encoding, weights. Exit code 2 if something will not work."""
    from rich.console import Console
    from rich.markup import escape

    from engine.cli.doctor_env import check_environment

    console = Console(highlight=False)
    findings = check_environment()
    style = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    for finding in findings:
        console.print(f"[{style[finding.level]}]{finding.level:4}[/] {finding.check:15} {escape(finding.message)}", soft_wrap=True)
    raise typer.Exit(2 if any(finding.level == "fail" for finding in findings) else 0)
