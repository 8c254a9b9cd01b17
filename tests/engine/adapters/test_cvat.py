"""The CVAT function under CVAT's own package."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest

from engine import Tracker
from engine.adapters.cvat import CvatTracker, create
from engine.errors import BoxError, WeightsError
from tests.require import require


@pytest.fixture(scope="module")
def function(tiny_weights):
    require("cvat", None if importlib.util.find_spec("cvat_sdk") else "not installed: cvat-sdk")
    return CvatTracker(str(tiny_weights), "cpu", "fp32")


def picture(seed):
    from PIL import Image

    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (120, 160, 3), np.uint8))


def test_it_follows_as_the_tracker_does_and_survives_being_saved(function, tiny_weights):
    from cvat_sdk import auto_annotation

    assert function.spec.supported_shape_types == {"rectangle"}
    tracker = Tracker(str(tiny_weights), "cpu", "fp32", color_config())
    tracker.init(np.asarray(picture(0)), (50, 40, 30, 24))
    first = function.preprocess_image(None, picture(0))
    state = function.init_tracking_state(None, first, auto_annotation.TrackableShape(type="rectangle", points=[50, 40, 80, 64]))
    for seed in range(1, 5):
        shape = function.track(None, function.preprocess_image(None, picture(seed)), state)
        result = tracker.update(np.asarray(picture(seed)))
        if result.state == "LOST":
            assert shape is None
            continue
        x, y, w, h = result.box
        assert isinstance(shape, auto_annotation.TrackableShape)
        assert (shape.type, shape.points) == ("rectangle", [x, y, x + w, y + h])
        state = function.restore(json.loads(json.dumps(state.save())))


def test_a_network_that_gives_no_numbers_is_an_error_that_leaves_the_state(function, monkeypatch):
    from cvat_sdk import auto_annotation

    state = function.init_tracking_state(
        None, function.preprocess_image(None, picture(0)), auto_annotation.TrackableShape(type="rectangle", points=[50, 40, 80, 64])
    )
    observe, box = function._runner.observe, state.target.box

    def spoilt(*arguments):
        seen = observe(*arguments)
        return seen._replace(targets=[one._replace(unclipped=(float("nan"),) * 4) for one in seen.targets])

    monkeypatch.setattr(function._runner, "observe", spoilt)
    with pytest.raises(WeightsError, match="must give finite numbers"):
        function.track(None, np.asarray(picture(1)), state)
    assert state.target.box == box


def color_config():
    from engine import TrackerConfig

    return TrackerConfig(color="rgb")


def test_other_shapes_are_refused(function):
    from cvat_sdk import auto_annotation

    with pytest.raises(BoxError, match="expected a rectangle"):
        function.init_tracking_state(None, np.zeros((9, 9, 3), np.uint8), auto_annotation.TrackableShape(type="points", points=[1, 2]))


def test_cvat_cli_finds_what_it_calls(tiny_weights):
    made = create(str(tiny_weights), device="cpu", dtype="fp32")
    assert all(callable(getattr(made, name)) for name in ("preprocess_image", "init_tracking_state", "track"))
