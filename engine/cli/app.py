"""The `esat` command line. Commands import what they need when they run, so that `esat --help` is quick."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from engine.errors import EsatError

app = typer.Typer(
    name="esat", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Follow any object from one box."
)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Exit code 0: done; 2: bad input, in one line on stderr; 1: internal error; 130: interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    try:
        app(arguments)
    except EsatError as error:
        if debug:
            raise
        Console(stderr=True).print(f"[bold red]error:[/] {_one_line(error)}", soft_wrap=True, highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # the last resort of a command line: name the error, keep the traceback for --debug
        if debug:
            raise
        message = f"[bold red]internal error:[/] {type(error).__name__}: {_one_line(error)} (run again with --debug for the traceback)"
        Console(stderr=True).print(message, soft_wrap=True, highlight=False)
        sys.exit(1)


def _one_line(error: BaseException) -> str:
    from rich.markup import escape

    return escape(" ".join(str(error).split()))


def _register() -> None:
    from engine.cli.convert import convert
    from engine.cli.demo import demo
    from engine.cli.doctor import doctor
    from engine.cli.eval import evaluate
    from engine.cli.explain import explain
    from engine.cli.info import info
    from engine.cli.serve import serve
    from engine.cli.track import track

    app.command()(convert)
    app.command()(demo)
    app.command()(doctor)
    app.command()(explain)
    app.command("eval")(evaluate)
    app.command()(info)
    app.command()(serve)
    app.command()(track)


@app.callback()
def _options() -> None:
    """Follow any object from one box. `--debug` anywhere shows tracebacks."""


_register()
