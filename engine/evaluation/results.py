"""Other trackers' results, read from their text files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from engine.datasets.sequences import Sequence
from engine.datasets.text import Floats, read_boxes
from engine.errors import ConfigError, DatasetError
from engine.files import no_folder


def read_results(folder: Path, sequence: Sequence) -> Floats:
    """Boxes [N, 4] of one sequence: NAME.txt, or NAME/NAME_001.txt as the got10k toolkit writes them. DatasetError."""
    for path in (folder / f"{sequence.name}.txt", folder / sequence.name / f"{sequence.name}_001.txt"):
        if path.is_file():
            return read_boxes(path)
    raise DatasetError(f"no {sequence.name}.txt in {folder}")


def parse_comparisons(texts: Iterable[str]) -> dict[str, Path]:
    """The folders of NAME=DIR, or DIR alone, whose last part is the name, by name. DatasetError for one that is not there, ConfigError for two of
    one name."""
    folders: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        folder = Path(path if equals else text)
        if not folder.is_dir():
            raise DatasetError(f"--compare {text}: {no_folder(folder)}")
        name = (name or folder.name) if equals else folder.name
        if name in folders:
            raise ConfigError(f"--compare {folders[name]} and {folder} are both named {name!r}: name them apart by --compare NAME=DIR")
        folders[name] = folder
    return folders
