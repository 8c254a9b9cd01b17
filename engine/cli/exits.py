"""What a command line owes its caller: one line and an exit code."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import typer
from rich.markup import escape

from engine.cli.terminal import terminal
from engine.errors import EsatError, EsatWarning, IncompleteError


def run(app: typer.Typer, arguments: list[str] | None = None) -> None:
    """Run a command line. Exit code 0: done; 2: bad input, in one line on stderr; 3: a source ended before its end, which the line on stderr
    says, and outputs hold what came before; 1: internal error; 130: interrupted.

    `--debug` anywhere among the arguments shows tracebacks.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    warnings.showwarning = _show_warning
    try:
        app(arguments)
    except EsatError as error:
        if debug:
            raise
        _print(f"[bold red]error:[/] {_one_line(error)}")
        sys.exit(3 if isinstance(error, IncompleteError) else 2)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # the last resort of a command line: name the error, keep the traceback for --debug
        if debug:
            raise
        if isinstance(error, OSError) and error.filename is not None:  # a file that no code expected to fail is the user's all the same
            _print(f"[bold red]error:[/] cannot use {escape(str(error.filename))}: {error.strerror}")
            sys.exit(2)
        _print(f"[bold red]internal error:[/] {type(error).__name__}: {_one_line(error)} (run again with --debug for the traceback)")
        sys.exit(1)


def run_function(function: Callable[..., Any], arguments: list[str] | None = None) -> None:
    """`run` for a program that is one command."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(function)
    run(app, arguments)


_shown: set[str] = set()
_show_other_warning = warnings.showwarning


def _show_warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """Ours as one line, once, without the place in the code; others' as Python shows them."""
    if not issubclass(category, EsatWarning):
        _show_other_warning(message, category, *where, **more)
    elif str(message) not in _shown:
        _shown.add(str(message))
        _print(f"[yellow]warning:[/] {escape(str(message))}")


def _print(text: str) -> None:
    terminal(stderr=True).print(text, soft_wrap=True, highlight=False)


def _one_line(error: BaseException) -> str:
    return escape(" ".join(str(error).split()))
