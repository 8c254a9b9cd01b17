"""The training material that a configuration names."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from engine.errors import ConfigError
from engine.training.config import TrainConfig
from engine.training.packed import is_packed, read_packed
from engine.training.sources import Pool, read_pool


def read_data(config: TrainConfig) -> Pool:
    """Public data sets if `layouts` names some, else shards or pictures and clips in the folder `data`; what is left out is in the pool's notes.

    DatasetError if there is nothing, ConfigError for `pseudo` or `clips` beside `layouts`, which are all that such a run reads. Shards hold what
    the configuration that they were packed by names.
    """
    pool = _read(config)
    return dataclasses.replace(pool, notes=(*pool.notes, *_left_out(pool, config)))


def _read(config: TrainConfig) -> Pool:
    if config.layouts:
        from engine.training.layouts import read_layouts  # it needs the video library, which a machine that trains on shards may lack

        unread = [name for name in ("pseudo", "clips") if getattr(config, name)]
        if unread:
            raise ConfigError(
                f"train config: layouts are read alone: expected no {' and no '.join(unread)}, got {getattr(config, unread[0])!r}"
            )
        return read_layouts(config.layouts)
    folder = Path(config.data)
    if is_packed(folder):
        return read_packed(folder)
    more = {name: Path(path) for name, path in config.clips.items()}
    return read_pool(folder, Path(config.pseudo) if config.pseudo else None, config.augment.groups, more)


def _left_out(pool: Pool, config: TrainConfig) -> list[str]:
    """What to say of groups of the data without a weight, and of named clips and parts of groups, "video2:fod", without data: their weight falls
    to others."""
    groups, there = config.augment.groups, {**pool.stills, **pool.clips}
    named = {name for name in groups if ":" in name} | set(config.clips) | ({"pseudo"} if config.pseudo else set())
    said = [f"no clip belongs to the group {name} of the configuration" for name in sorted(named) if name not in there]
    return said + [
        f"the group {name} of the data has no weight in the configuration: it is left out" for name in sorted(there) if name not in groups
    ]
