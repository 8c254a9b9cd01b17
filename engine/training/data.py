"""The training material that a configuration names."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path

from engine.errors import ConfigError
from engine.training.config import TrainConfig
from engine.training.packed import is_packed, read_packed
from engine.training.sources import Pool, read_pool


def read_data(config: TrainConfig) -> Pool:
    """Public data sets if `layouts` names some, else shards or pictures and clips in the folder `data`; what is left out is in the pool's notes.

    DatasetError if there is nothing, ConfigError for `pseudo` or `clips` beside data sets or shards, which are all that such a run reads.
    """
    pool = _read(config)
    return dataclasses.replace(pool, notes=(*pool.notes, *_left_out(pool, config.augment.groups)))


def _read(config: TrainConfig) -> Pool:
    if config.layouts:
        from engine.training.layouts import read_layouts  # it needs the video library, which a machine that trains on shards may lack

        _need_nothing_else(config, "the data sets of layouts are read alone")
        return read_layouts(config.layouts)
    folder = Path(config.data)
    if is_packed(folder):
        _need_nothing_else(config, f"the shards in {folder} are read alone")
        return read_packed(folder)
    more = {name: Path(path) for name, path in config.clips.items()}
    return read_pool(folder, Path(config.pseudo) if config.pseudo else None, config.augment.groups, more)


def _need_nothing_else(config: TrainConfig, why: str) -> None:
    unread = [name for name in ("pseudo", "clips") if getattr(config, name)]
    if unread:
        raise ConfigError(f"train config: {why}: expected no {' and no '.join(unread)}, got {getattr(config, unread[0])!r}")


def _left_out(pool: Pool, groups: Collection[str]) -> list[str]:
    """What to say of groups of the data without a weight, and of parts of groups, "video2:fod", without data: their weight falls to others."""
    there = {**pool.stills, **pool.clips}
    said = [f"no clip belongs to the group {name} of the configuration" for name in sorted(groups) if ":" in name and name not in there]
    return said + [
        f"the group {name} of the data has no weight in the configuration: it is left out" for name in sorted(there) if name not in groups
    ]
