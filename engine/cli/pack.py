"""`esat pack CONFIG`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pack(
    config: Annotated[Path, typer.Argument(help="Training configuration, such as configs/esat-s-256.yaml.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the shards.")],
    data: Annotated[Path | None, typer.Option(help="Folder with train_images/ and train_video/; default: the configuration's.")] = None,
    pseudo: Annotated[Path | None, typer.Option(help="Folder of box files for train_video_nogt/; default: the configuration's.")] = None,
    limit_mb: Annotated[float, typer.Option(help="Largest size of all shards, in MiB.")] = 48.0,
    shard_mb: Annotated[float, typer.Option(help="Largest size of one shard, in MiB.")] = 12.0,
) -> None:
    """Pack a training run's pictures and boxes into a few files: `esat train CONFIG --data OUT` needs nothing else."""
    from engine.cli.terminal import terminal
    from engine.training import packed
    from engine.training.config import read_config
    from engine.training.data import read_data

    given = {"data": data, "pseudo": pseudo}
    settings = read_config(config, **{key: str(value) for key, value in given.items() if value is not None})
    pool = read_data(settings)
    coding = packed.pack(pool, out, settings.model, settings.augment, limit_mb, shard_mb)
    files = sorted(out.glob(packed.PATTERN))
    boxes = ", ".join(f"{name} {count}" for name, count in packed.read_packed(out).describe().items())
    terminal(stderr=True).print(
        f"{len(files)} shards, {sum(file.stat().st_size for file in files) / 2**20:.1f} MiB in {out}: sides up to {coding.longest} px, "
        f"WebP quality {coding.quality}, every {coding.step}. frame; boxes: {boxes}",
        highlight=False,
    )
