"""Follow a target through a source and write pictures of what the network saw."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from engine.boxes import Box
from engine.errors import SourceError
from engine.explain import capture, figures
from engine.runners.preprocess import template_box
from engine.tracking.config import TrackerConfig
from engine.tracking.tracker import Tracker
from engine.video import Frame, Source
from engine.video.mp4 import Mp4
from engine.video.sinks import Record, Sink, Sinks
from engine.weights.io import Weights


@dataclasses.dataclass(frozen=True)
class Written:
    """The files of one run; `video` is None unless asked for."""

    rows: Path
    correlations: Path
    video: Path | None


def explain(
    source: Source,
    box: Box,
    weights: Weights,
    folder: Path,
    chosen: Collection[int],
    truth: list[Box] | None = None,
    with_video: bool = False,
    on_frame: Callable[[Frame], None] | None = None,
) -> Written:
    """Track from `box` in the source's first frame; write `frames.png` (one row for each chosen frame), `correlations.png` (of the last
    chosen frame) and, if asked for, `explain.mp4` (every frame up to the last chosen one) into `folder`.

    chosen: frame indices of 1 and more. truth: boxes by frame index, drawn in green. BoxError; SourceError if a chosen frame does not exist.
    """
    tracker = Tracker(weights, device="cpu", dtype="fp32", config=TrackerConfig(loop="public"))  # each region is around the box before
    network = weights.model()
    config = weights.config
    rows, labels, columns = [], [], []
    last = max(chosen)
    matrices = None
    with Sinks() as sinks:
        template = None
        for frame in source:
            if template is None:
                tracker.init(frame.image, box)  # first, since it checks the box
                template = capture.crops(frame.image, box, config.template_factor, config.template_size)
                where = template_box(box, config)
                continue
            previous, result = box, tracker.update(frame.image)
            box = result.box
            if on_frame is not None:
                on_frame(frame)
            if with_video or frame.index in chosen:
                search = capture.crops(frame.image, previous, config.search_factor, config.search_size)
                insight = capture.see(network, template, search, where)
                picture = figures.row(insight, frame.image, box, truth[frame.index] if truth and frame.index < len(truth) else None)
                columns = figures.titles(insight)
                if frame.index in chosen:
                    rows.append(picture)
                    labels.append(f"frame {frame.index}, score {result.score:.2f}")
                if with_video:
                    if not sinks.targets:
                        sinks.add(_video(folder / "explain.mp4", picture, source))
                    record = Record(frame.index, box, result.score, str(result.state), result.timings_ms["total"])
                    sinks.write(Frame(frame.index, frame.timestamp, picture[:, :, ::-1]), [record])
                if frame.index == last:
                    matrices = capture.correlations(network, template, search, where)
                    break
        missing = sorted(set(chosen) - {int(label.split()[1].rstrip(",")) for label in labels})
        if matrices is None or missing:
            raise SourceError(f"{source.name}: there is no frame {', '.join(map(str, missing))} to explain")
        figures.save_rows(folder / "frames.png", rows, columns, labels)
        figures.save_correlations(folder / "correlations.png", matrices, config.num_template)
        sinks.finish({})
    return Written(folder / "frames.png", folder / "correlations.png", folder / "explain.mp4" if with_video else None)


def _video(path: Path, picture: np.ndarray, source: Source) -> Sink:
    return Mp4(path, picture.shape[1], picture.shape[0], source.rate, source.time_base, lambda image, records: image)
