"""The training material that a configuration names."""

from __future__ import annotations

from pathlib import Path

from engine.training.config import TrainConfig
from engine.training.packed import is_packed, read_packed
from engine.training.sources import Pool, read_pool


def read_data(config: TrainConfig) -> Pool:
    """Public data sets if `layouts` names some, else shards or pictures and clips in the folder `data`. DatasetError if there is nothing."""
    if config.layouts:
        from engine.training.layouts import read_layouts  # it needs the video library, which a machine that trains on shards may lack

        return read_layouts(config.layouts)
    folder = Path(config.data)
    return (
        read_packed(folder)
        if is_packed(folder)
        else read_pool(folder, Path(config.pseudo) if config.pseudo else None, config.augment.groups)
    )
