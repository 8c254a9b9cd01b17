"""The training material that a configuration names."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path

from engine.training.config import TrainConfig
from engine.training.packed import is_packed, read_packed
from engine.training.sources import Pool, read_pool


def read_data(config: TrainConfig) -> Pool:
    """Public data sets if `layouts` names some, else shards or pictures and clips in the folder `data`. DatasetError if there is nothing."""
    if config.layouts:
        from engine.training.layouts import read_layouts  # it needs the video library, which a machine that trains on shards may lack

        return read_layouts(config.layouts)
    folder, groups = Path(config.data), config.augment.groups
    pseudo = Path(config.pseudo) if config.pseudo else None
    more = {name: Path(path) for name, path in config.clips.items()}
    pool = read_packed(folder) if is_packed(folder) else read_pool(folder, pseudo, groups, more)
    return dataclasses.replace(pool, notes=(*pool.notes, *_parts_apart(pool, groups)))


def _parts_apart(pool: Pool, groups: Collection[str]) -> list[str]:
    """What to say of parts of groups, "video2:fod", that the configuration and the data do not share: their weights then fall to others."""
    asked, there = ({name for name in names if ":" in name} for names in (groups, pool.clips))
    said = [f"no clip belongs to the group {name} of the configuration" for name in sorted(asked - there)]
    return said + [f"the group {name} of the data has no weight in the configuration: it is left out" for name in sorted(there - asked)]
