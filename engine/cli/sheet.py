"""`esat sheet CONFIG OUT`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def sheet(
    config: Annotated[Path, typer.Argument(help="Training configuration, such as configs/esat-s-256.yaml.")],
    out: Annotated[Path, typer.Argument(help="Picture of the training pairs, .png or .jpg.")],
    data_sheet: Annotated[Path | None, typer.Option(help="Also a picture of the data with their boxes, group by group.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder with train_images/ and train_video/; default: the configuration's.")] = None,
    pseudo: Annotated[Path | None, typer.Option(help="Folder of box files for train_video_nogt/; default: the configuration's.")] = None,
    only: Annotated[str, typer.Option(metavar="GROUP,...", help="Pairs of these groups; all of the configuration's by default.")] = "",
    pairs: Annotated[int, typer.Option(min=1, help="How many.")] = 32,
    page: Annotated[int, typer.Option(min=0, help="0: the first so many pairs, 1: the next ones, ...")] = 0,
    per_group: Annotated[int, typer.Option(min=1, help="Pictures of a group of the data at most.")] = 24,
) -> None:
    """Draw what a training run sees: pairs of template and search region with their boxes, and the data behind them."""
    import dataclasses

    from engine.cli.terminal import terminal
    from engine.errors import ConfigError
    from engine.training.config import read_config
    from engine.training.data import read_data
    from engine.training.pairs import PairMaker
    from engine.training.sheet import data_sheet as draw_data
    from engine.training.sheet import pair_sheet, picture_format, write_picture

    for path in (out, data_sheet):
        if path is not None:
            picture_format(path)
    given = {"data": data, "pseudo": pseudo}
    settings = read_config(config, **{key: str(value) for key, value in given.items() if value is not None})
    if only:
        known = settings.augment.groups
        if unknown := [name for name in only.split(",") if name not in known]:
            raise ConfigError(f"--only must be of {', '.join(known)}, got {', '.join(unknown)}")
        groups = {name: known[name] or 1.0 for name in only.split(",")}
        settings = settings.replace(augment=dataclasses.replace(settings.augment, groups=groups))
    pool = read_data(settings)
    maker = PairMaker(pool, settings.model, settings.augment, settings.seed)
    write_picture(out, pair_sheet(maker.batch(page, pairs)))
    console = terminal(stderr=True)
    console.print(f"pairs {page * pairs} to {page * pairs + pairs - 1}: {out}", highlight=False)
    if data_sheet is not None:
        write_picture(data_sheet, draw_data(pool, per_group))
        console.print(f"data: {data_sheet}", highlight=False)
