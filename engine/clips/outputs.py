"""The formats that results are written in, by name."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.files import check_apart
from engine.video.annotations import ClipInfo
from engine.video.coco import CocoVideo
from engine.video.cvat import CvatVideo
from engine.video.draw import COLORS, Color, draw
from engine.video.folder import ImageFolder
from engine.video.frames import Frame, Source
from engine.video.label_studio import LabelStudioVideo
from engine.video.mp4 import Mp4
from engine.video.names import as_text, without_password
from engine.video.sinks import BoxText, Csv, JsonFile, JsonLines, MotText, Sink, Sinks, StdoutJsonLines
from engine.video.sources import local_path


@dataclasses.dataclass(frozen=True)
class About:
    """What outputs need to know of a run. header: the keys that JSON begins with; several: rows carry ids, boxes their target's colour."""

    clip: ClipInfo
    source: Source
    header: Mapping[str, Any]
    several: bool
    pixel_aspect: Fraction = Fraction(1)
    color: Color = COLORS["green"]

    def annotate(self) -> functools.partial[Any]:
        """How frames are drawn on."""
        return functools.partial(draw, color=self.color, several=self.several)


def _mp4(path: Path, about: About) -> Sink:
    return Mp4(path, about.clip.width, about.clip.height, about.source.rate, about.source.time_base, about.annotate(), about.pixel_aspect)


def _json_lines(path: Path, about: About) -> Sink:
    return StdoutJsonLines(about.several) if str(path) == "-" else JsonLines(path, about.several)


FORMATS: dict[str, tuple[str, Callable[[Path, About], Sink]]] = {  # the suffix in a folder of outputs, and what opens it
    "mp4": (".mp4", _mp4),
    "json": (".json", lambda path, about: JsonFile(path, about.header, about.several)),
    "jsonl": (".jsonl", _json_lines),
    "txt": (".txt", lambda path, about: BoxText(path, about.several)),
    "mot": (".mot.txt", lambda path, about: MotText(path)),
    "csv": (".csv", lambda path, about: Csv(path)),
    "coco": (".coco.json", lambda path, about: CocoVideo(path, about.clip)),
    "cvat": (".cvat.xml", lambda path, about: CvatVideo(path, about.clip)),
    "label-studio": (".label-studio.json", lambda path, about: LabelStudioVideo(path, about.clip)),
}


def parse_formats(texts: list[str]) -> list[str]:
    """Names of formats from `json,mp4` or several such texts. ConfigError for one that is not known."""
    names = [name.strip() for text in texts for name in text.split(",") if name.strip()]
    for name in names:
        if name not in FORMATS:
            raise ConfigError(f"--format must be of {', '.join(FORMATS)}, got {name!r}")
    return list(dict.fromkeys(names))


def check_outputs(source: str, outputs: Mapping[str, Path]) -> None:
    """SinkError where two outputs, or an output and the source, are the same file; ConfigError for an unknown format."""
    path = local_path(source)
    files = {} if path is None else {"the source": path}
    for name, target in outputs.items():
        if name not in FORMATS:
            raise ConfigError(f"outputs must be of {', '.join(FORMATS)}, got {name!r}")
        if str(target) != "-":
            files[f"the {name} output"] = target
    check_apart(files)


def open_outputs(outputs: Mapping[str, Path], sinks: Sinks, about: About) -> None:
    """Open what is asked for, each added to `sinks` at once, so that a failure of the next one removes it."""
    for name, path in outputs.items():
        sinks.add(FORMATS[name][1](path, about))


def clip_info(name: str, first: Frame, source: Source, label: str, model: str) -> ClipInfo:
    """What annotation files say of a clip. A video's pictures are named as if its frames had been written to CLIP/000000.jpg, ..."""
    height, width = first.image.shape[:2]
    path, label = local_path(name) or Path(without_password(name)), as_text(label)
    if os.path.isdir(path):
        names = [image.name for image in ImageFolder(path).paths]
        return ClipInfo(as_text(path.resolve().name), width, height, source.rate, len(names), names.__getitem__, label, model)
    stem = as_text(path.stem)
    return ClipInfo(
        as_text(path.name), width, height, source.rate, source.frame_count, lambda index: f"{stem}/{index:06d}.jpg", label, model
    )
