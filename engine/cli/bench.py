"""`esat bench [attention|frame|table2|targets|soak|report]`."""

from __future__ import annotations

import typer


def bench(context: typer.Context) -> None:
    """Benchmarks: attention, frame or table2 with their own options, or (without a name) all of them and one report.

    `esat bench --quick` takes minutes; an interrupted run goes on with the parts that are missing; `--compare DIR` sets an earlier report beside it.
    `esat bench attention --help` shows a benchmark's options. Each runs in a process of its own, as `python -m benchmarks.NAME` does.
    """
    import subprocess
    import sys

    from engine.errors import ConfigError

    known = ("attention", "frame", "table2", "parity", "accuracy", "targets", "soak", "report")
    arguments = list(context.args)
    name = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "report"
    if name not in known:
        raise ConfigError(f"unknown benchmark {name!r}: expected one of {', '.join(known)}")
    raise typer.Exit(subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments]).returncode)
