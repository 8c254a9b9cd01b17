"""A tracker for the VOT toolkit (0.9 and newer), which runs it in a process of its own. In the workspace's `trackers.ini`:

    [ESAT]
    label = ESAT
    protocol = python
    command = engine.adapters.vot:VotTracker
    convert = rectangle
    timeout = 120
    arg_model = esat-s-256

`arg_model`, `arg_device`, `arg_dtype` and `arg_backend` are those of `engine.MultiTracker` and may be left out. `convert = rectangle` makes
the toolkit give boxes where its ground truth is masks or polygons. Then `vot evaluate ESAT` and `vot analysis ESAT`.

The toolkit asks for `opencv-python`; in the same environment that collides with our headless build, which does all that it needs:
`pip install --no-deps vot-toolkit vot-trax` and the rest of its requirements (see `.ci/run`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import ConfigError
from engine.runners.choice import make_runner
from engine.tracking.multi import MultiTracker
from engine.video.images import ImageReader
from engine.weights import DEFAULT_MODEL, find_weights

Status = tuple[Any, dict[str, str]]  # region, properties


class VotTracker:
    """All targets of a sequence in one batch. Frames come as file names; regions are boxes x, y, w, h in pixels.

    Calls take and return the toolkit's (region, properties) for each target, in the order in which the targets came.
    ConfigError for regions that are no boxes and for frames of several channels (depth, infrared).
    """

    multiobject = True  # read by the toolkit

    def __init__(self, model: str = DEFAULT_MODEL, device: str = "auto", dtype: str = "auto", backend: str = "auto"):
        self._runner = make_runner(find_weights(model), device, dtype, backend)
        self._tracker, self._read = MultiTracker(self._runner), ImageReader()

    def init(self, frame: str, new: list[Status]) -> list[Status]:
        """Forget the targets of an earlier run and start with those in `new`."""
        self._tracker, self._read = MultiTracker(self._runner), ImageReader()
        return self._add(self._read(_path(frame)), new)

    def update(self, frame: str, new: list[Status]) -> list[Status]:
        """Where the targets are in the next frame, and those that appear in it. The score is the property `confidence` of long-term measures."""
        image = self._read(_path(frame))
        found = [(result.box, {"confidence": f"{result.score:.6f}"}) for result in self._tracker.update(image).values()]
        return found + self._add(image, new)

    def _add(self, image: NDArray[np.uint8], new: list[Status]) -> list[Status]:
        for region, _ in new:
            if not (isinstance(region, tuple) and len(region) == 4):
                kind = type(region).__name__
                raise ConfigError(f"VOT: a region must be a box (x, y, w, h), got a {kind}: set `convert = rectangle` in trackers.ini")
            self._tracker.add(image, region)
        return [(region, {}) for region, _ in new]


def _path(frame: Any) -> Path:
    if not isinstance(frame, str):
        kind = f"the channels {', '.join(frame)}" if isinstance(frame, dict) else type(frame).__name__
        raise ConfigError(f"VOT: a frame must be the name of one colour image, got {kind}")
    return Path(frame)
