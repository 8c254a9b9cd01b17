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
    if directory is not None:
        from engine.cli.doctor_data import doctor_data

        raise typer.Exit(doctor_data(directory, layout))
    from rich.console import Console
    from rich.markup import escape

    from engine.cli.doctor_env import check_environment

    console = Console(highlight=False)
    findings = check_environment()
    style = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    for finding in findings:
        console.print(f"[{style[finding.level]}]{finding.level:4}[/] {finding.check:15} {escape(finding.message)}", soft_wrap=True)
    raise typer.Exit(2 if any(finding.level == "fail" for finding in findings) else 0)
