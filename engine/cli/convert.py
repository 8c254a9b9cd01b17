"""`esat convert IN OUT`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from engine.config import ModelConfig


def convert(
    source: Annotated[Path, typer.Argument(help="PyTorch checkpoint under OSTrack's names (.pth, .pth.tar).")],
    target: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    model: Annotated[
        str | None, typer.Option(help="Preset whose sizes and force constants to store; default: told from the shapes.")
    ] = None,
) -> None:
    """Convert a public checkpoint to safetensors, without running any code it may hold."""
    from engine.weights.convert import convert as convert_file

    say_written(target, convert_file(source, target, model))


def say_written(target: Path, config: ModelConfig) -> None:
    """The line about a weights file that a command has written."""
    from engine.cli.terminal import terminal
    from engine.weights.io import file_hash

    terminal().print(f"{target}: {config.name}, {target.stat().st_size / 2**20:.1f} MiB, sha256 {file_hash(target)[:16]}", highlight=False)
