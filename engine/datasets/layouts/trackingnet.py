"""TrackingNet: `TEST/{frames/SEQ/0.jpg, anno/SEQ.txt}`, the same for TRAIN_0 .. TRAIN_11. TEST gives the first frame's box only."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from engine.datasets.sequences import Failure, Sequence, build, collect, files, folders, image_files
from engine.video.listing import natural_key


def detect(root: Path) -> bool:
    return bool(_parts(root))


def read(root: Path, training: bool = False) -> list[Sequence | Failure]:
    return [
        collect(name, partial(_load, part, name))
        for part in _parts(root, training)
        for name in sorted(
            {path.stem for path in files(part / "anno", "*.txt")} | {folder.name for folder in folders(part / "frames")}, key=natural_key
        )
    ]


def _parts(root: Path, training: bool = False) -> list[Path]:
    """TEST where it is there (but not for training), else the training parts, else the folder itself."""
    test = root / "TEST"
    candidates = (
        [test] if test.is_dir() and not training else [*(folder for folder in folders(root) if folder.name.startswith("TRAIN_")), root]
    )
    return [folder for folder in candidates if (folder / "frames").is_dir() and (folder / "anno").is_dir()]


def _load(part: Path, name: str) -> Sequence:
    return build(name, part / "anno" / f"{name}.txt", image_files(part / "frames" / name))
