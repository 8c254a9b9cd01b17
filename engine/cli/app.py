"""The `esat` command line. Commands import what they need when they run, so that `esat --help` is quick."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from engine.cli.exits import run
from engine.cpus import bound_cpus, cpu_count

_SPINS = "1000"  # rounds in which an idle OpenMP thread looks for work before it sleeps; see main

app = typer.Typer(
    name="esat", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Follow any object from one box."
)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: see `engine.cli.exits.run` for the exit codes."""
    # GNU's OpenMP spins for milliseconds by default, which multiplies a frame's time where another process wants the core. It reads this when
    # PyTorch is imported, so it is set before, and only where the user has not chosen.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    if cpu_count() < bound_cpus():  # a container's quota, of which OpenMP knows nothing
        os.environ.setdefault("OMP_NUM_THREADS", str(cpu_count()))
    run(app, arguments)


def _register() -> None:
    from engine.cli.bench import bench
    from engine.cli.convert import convert
    from engine.cli.demo import demo
    from engine.cli.doctor import doctor
    from engine.cli.eval import evaluate
    from engine.cli.explain import explain
    from engine.cli.export import export
    from engine.cli.info import info
    from engine.cli.mix import mix
    from engine.cli.pack import pack
    from engine.cli.serve import serve
    from engine.cli.sheet import sheet
    from engine.cli.track import track
    from engine.cli.train import train

    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})(bench)
    app.command()(convert)
    app.command()(demo)
    app.command()(doctor)
    app.command()(explain)
    app.command("eval")(evaluate)
    app.command()(export)
    app.command()(info)
    app.command()(mix)
    app.command()(pack)
    app.command()(serve)
    app.command()(sheet)
    app.command()(track)
    app.command()(train)


def _print_version(asked: bool) -> None:
    if asked:
        from engine.cli.machine import package_version

        typer.echo(f"esat {package_version('esat-engine') or 'from a source tree that is not installed'}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")] = False,
) -> None:
    """Follow any object from one box. `--debug` anywhere shows tracebacks."""


_register()
