"""How data sets lie on disk: one file each. A layout has `detect(root)` and `read(root, training)`.

training: read the part that is there to learn from, where a layout has parts (GOT-10k, TrackingNet, LaSOT).
"""

from __future__ import annotations

import os
from collections import Counter
from functools import partial
from pathlib import Path

from engine.datasets.layouts import got10k, lasot, nfs, otb, tnl2k, trackingnet, uav20l, uav123, video
from engine.datasets.sequences import Dataset, Failure, Sequence, collect
from engine.errors import ConfigError, DatasetError
from engine.files import no_folder

# The order in which `auto` tries them: the more particular ones first (LaSOT's folders also look like OTB's).
LAYOUTS = {
    "trackingnet": trackingnet,
    "got10k": got10k,
    "uav123": uav123,
    "uav20l": uav20l,
    "nfs": nfs,
    "lasot": lasot,
    "tnl2k": tnl2k,
    "otb": otb,
    "video": video,
}
_ALIASES = {"lasot_ext": "lasot"}


def open_dataset(root: str | Path, layout: str = "auto", training: bool = False) -> Dataset:
    """Read the sequences in a folder. layout: "auto" or one of LAYOUTS ("lasot_ext" is the same as "lasot").

    training: the part to learn from, in which the first frame needs no box.

    ConfigError for an unknown layout; DatasetError for a folder that is missing, cannot be read or holds no sequence of the layout.
    Sequences that cannot be used are in `broken`; folders that cannot be read are left out with an EsatWarning.
    """
    root = Path(root)
    if not os.path.isdir(root):
        raise DatasetError(no_folder(root))
    layout = _ALIASES.get(layout, layout)
    if layout not in ("auto", *LAYOUTS):
        raise ConfigError(f"unknown layout {layout!r}: expected auto, {', '.join([*LAYOUTS, *_ALIASES])}")
    try:
        layout = _detect(root) if layout == "auto" else layout
        found = LAYOUTS[layout].read(root, training)
    except OSError as error:
        raise DatasetError(f"cannot read {error.filename or root}: {error.strerror or error}") from error
    if not found:
        raise DatasetError(f"{root} holds no sequence of the layout {layout!r}")
    double = [name for name, count in Counter(entry.name for entry in found).items() if count > 1]
    if double:
        raise DatasetError(f"{root}: several sequences are named {', '.join(double[:5])}")
    unsafe = [entry.name for entry in found if entry.name != Path(entry.name).name or entry.name.startswith(".")]
    if unsafe:
        raise DatasetError(f"{root}: a sequence must be named like a file, got {unsafe[0]!r}")
    if not training:
        found = [collect(entry.name, partial(_started, entry)) if isinstance(entry, Sequence) else entry for entry in found]
    sequences = tuple(entry for entry in found if isinstance(entry, Sequence))
    return Dataset(root, layout, sequences, tuple(entry for entry in found if isinstance(entry, Failure)))


def _detect(root: Path) -> str:
    for name, module in LAYOUTS.items():
        if module.detect(root):
            return name
    raise DatasetError(f"{root} follows none of the layouts {', '.join(LAYOUTS)}: see `esat eval --help`")


def _started(sequence: Sequence) -> Sequence:
    sequence.check_start()
    return sequence
