"""How benchmarks lie on disk: one file each. A layout has `detect(root)` and `read(root)`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from engine.errors import ConfigError, DatasetError
from engine.evaluation.layouts import got10k, lasot, otb, tnl2k, trackingnet, video
from engine.evaluation.sequences import Broken, Dataset, Sequence

# The order in which `auto` tries them: the more particular ones first (LaSOT's folders also look like OTB's).
LAYOUTS = {
    "trackingnet": trackingnet,
    "got10k": got10k,
    "lasot": lasot,
    "tnl2k": tnl2k,
    "otb": otb,
    "video": video,
}
_ALIASES = {"lasot_ext": "lasot"}


def open_dataset(root: Path, layout: str = "auto") -> Dataset:
    """Read the sequences in a folder. layout: "auto" or one of LAYOUTS ("lasot_ext" is the same as "lasot").

    ConfigError for an unknown layout; DatasetError for a folder that is missing or holds no sequence of the layout. Sequences that
    cannot be used are in `broken`.
    """
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"no such folder: {root}")
    layout = _ALIASES.get(layout, layout)
    if layout == "auto":
        layout = next((name for name, module in LAYOUTS.items() if module.detect(root)), "")
        if not layout:
            raise DatasetError(f"{root} follows none of the layouts {', '.join(LAYOUTS)}: see `esat eval --help`")
    if layout not in LAYOUTS:
        raise ConfigError(f"unknown layout {layout!r}: expected auto, {', '.join([*LAYOUTS, *_ALIASES])}")
    found = LAYOUTS[layout].read(root)
    if not found:
        raise DatasetError(f"{root} holds no sequence of the layout {layout!r}")
    double = [name for name, count in Counter(entry.name for entry in found).items() if count > 1]
    if double:
        raise DatasetError(f"{root}: several sequences are named {', '.join(double[:5])}")
    unsafe = [entry.name for entry in found if entry.name != Path(entry.name).name or entry.name.startswith(".")]
    if unsafe:
        raise DatasetError(f"{root}: a sequence must be named like a file, got {unsafe[0]!r}")
    sequences = tuple(entry for entry in found if isinstance(entry, Sequence))
    return Dataset(root, layout, sequences, tuple(entry for entry in found if isinstance(entry, Broken)))
