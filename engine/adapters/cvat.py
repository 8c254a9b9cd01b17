"""A tracking function for CVAT's auto-annotation agents: draw a box in CVAT, and the agent follows it through as many frames as you ask for.

    pip install cvat-cli
    cvat-cli function create-native "ESAT" --function-file .../engine/adapters/cvat.py
    cvat-cli function run-agent ID --function-file .../engine/adapters/cvat.py

`-p model=str:NAME`, `-p device=str:...`, `-p dtype=str:...` are those of `engine.Tracker` and may be left out. Needs CVAT and cvat-sdk with
tracking functions (`TrackingFunctionSpec`; tested with 2.80).
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import BoxError, ConfigError
from engine.runners.protocol import Runner
from engine.tracking.config import TrackerConfig
from engine.tracking.saved import restore_target, save_target, template_picture
from engine.tracking.state import TargetState
from engine.tracking.target import Target, check_seen
from engine.weights.shipped import DEFAULT_MODEL

RECTANGLE = "rectangle"


@dataclasses.dataclass
class TrackingState:
    """What the agent keeps of one shape between frames."""

    target: Target
    picture: NDArray[np.uint8]  # of its template

    def save(self) -> dict[str, Any]:
        """As plain data, for agents that must survive a restart; see `engine.tracking.saved`."""
        return save_target(self.target, self.picture)


class CvatTracker:
    """A `cvat_sdk.auto_annotation.TrackingFunction` for rectangles. A shape that is LOST is not found: CVAT ends its track there."""

    def __init__(self, model: str = DEFAULT_MODEL, device: str = "auto", dtype: str = "auto", runner: Runner | None = None):
        if runner is None:
            from engine.tracking.tracker import open_runner

            runner = open_runner(model, device, dtype, "auto")
        self._runner = runner
        self._config = TrackerConfig(color="rgb")

    @property
    def spec(self) -> Any:
        """What the function can track, in CVAT's terms. ConfigError where the package is missing or too old."""
        try:
            from cvat_sdk.auto_annotation import TrackingFunctionSpec
        except ImportError as error:
            raise ConfigError(f"CVAT's functions need cvat-sdk with TrackingFunctionSpec: pip install cvat-sdk ({error})") from error
        return TrackingFunctionSpec(supported_shape_types=[RECTANGLE])

    def preprocess_image(self, context: Any, image: Any) -> NDArray[np.uint8]:
        """The picture (PIL) as RGB, shared by all shapes on it."""
        return np.asarray(image.convert("RGB"), np.uint8)

    def init_tracking_state(self, context: Any, pp_image: NDArray[np.uint8], shape: Any) -> TrackingState:
        """Begin to follow a rectangle (points: left, top, right, bottom). BoxError for anything else."""
        if shape.type != RECTANGLE or len(shape.points) != 4:
            raise BoxError(f"CVAT: expected a rectangle of four numbers, got a {shape.type} of {len(shape.points)}")
        left, top, right, bottom = shape.points
        target = Target(self._runner, pp_image, (left, top, right - left, bottom - top), self._config)
        return TrackingState(target, template_picture(self._runner, pp_image, target.box))

    def track(self, context: Any, pp_image: NDArray[np.uint8], state: TrackingState) -> Any:
        """The rectangle in the next picture, None where it is lost. `state` goes on. WeightsError where the network gives no finite numbers."""
        from cvat_sdk.auto_annotation import TrackableShape

        target, start = state.target, time.perf_counter()
        searched, size = target.regions, (pp_image.shape[1], pp_image.shape[0])
        observations = self._runner.observe(pp_image, searched, [target.template] * len(searched), False)
        check_seen(observations.targets, self._runner)
        timings = {**observations.timings_ms, "total": 1e3 * (time.perf_counter() - start)}
        result = target.advance(observations.targets, searched, size, timings)
        if result.state is TargetState.LOST:
            return None
        x, y, w, h = result.box
        return TrackableShape(type=RECTANGLE, points=[x, y, x + w, y + h])

    def restore(self, saved: Any) -> TrackingState:
        """A state that was saved. StateError for what is none."""
        return TrackingState(*restore_target(saved, self._runner, bgr=False))


def create(model: str = DEFAULT_MODEL, device: str = "auto", dtype: str = "auto") -> CvatTracker:
    """What cvat-cli calls with the parameters of its command line."""
    return CvatTracker(model, device, dtype)
