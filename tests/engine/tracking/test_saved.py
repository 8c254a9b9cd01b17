"""A target's state that was saved goes on as if it had not been."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from engine import Tracker, TrackerConfig
from engine.errors import StateError
from engine.tracking.saved import restore_target, save_target, template_picture
from engine.tracking.state import StateThresholds, TargetState
from engine.tracking.target import Target

BOX = (50.3, 40.0, 31.7, 24.0)


@pytest.fixture(scope="module")
def runner(tiny_weights):
    return Tracker(tiny_weights, device="cpu", dtype="fp32").runner


def frame(seed):
    return np.random.default_rng(seed).integers(0, 256, (120, 160, 3), np.uint8)


def step(runner, target, seed):
    image = frame(seed)
    searched = target.regions
    seen = runner.observe(image, searched, [target.template] * len(searched), True).targets
    return target.advance(seen, searched, (160, 120), {})


@pytest.mark.parametrize("box", [BOX, (0.0, 0.0, 40.0, 30.0), (130.0, 100.0, 60.0, 40.0)])
@pytest.mark.parametrize("frames", [0, 3, 12])
def test_a_restored_target_goes_on(runner, box, frames):
    """Thresholds under which noise is lost after some frames: the search for a lost target is part of the state."""
    thresholds = StateThresholds(confident=0.999, lost=0.99, lost_after=4, found=1.0, found_after=3, gone=0.99)
    target = Target(runner, frame(0), box, TrackerConfig(thresholds=thresholds))
    picture = template_picture(runner, frame(0), target.box)
    states = [step(runner, target, seed).state for seed in range(1, 1 + frames)]
    assert (TargetState.LOST in states) == (frames == 12)
    again, again_picture = restore_target(json.loads(json.dumps(save_target(target, picture))), runner)
    assert (again_picture == picture).all()
    for seed in range(20, 28):
        expected, found = step(runner, target, seed), step(runner, again, seed)
        assert (found.box, found.score, found.state, found.confidence, found.frame_index, found.search_region) == (
            expected.box,
            expected.score,
            expected.state,
            expected.confidence,
            expected.frame_index,
            expected.search_region,
        )


def test_what_is_no_state(runner):
    target = Target(runner, frame(0), BOX, TrackerConfig())
    step(runner, target, 1)
    good = save_target(target, template_picture(runner, frame(0), target.box))
    for damage in (
        lambda saved: saved.update(format="other"),
        lambda saved: saved.pop("target"),
        lambda saved: saved["target"].update({"class": "Popen"}),
        lambda saved: saved["template"].update(array="object"),
        lambda saved: saved["template"].update(data="%%%"),
        lambda saved: saved["template"].update(shape=[1, 2, 3]),
        lambda saved: saved.update(target=saved["template"]),
        lambda saved: saved.update(target="text"),
        lambda saved: saved["target"]["fields"].pop("template_box"),
        lambda saved: saved["target"]["fields"].pop("beside"),
        lambda saved: saved["target"]["fields"].update(more=1),
        lambda saved: saved["target"]["fields"]["_machine"]["fields"].pop("searching"),
        lambda saved: saved["target"].update(fields=None),
    ):
        saved = copy.deepcopy(good)
        damage(saved)
        with pytest.raises(StateError, match="state"):
            restore_target(saved, runner)
    with pytest.raises(StateError, match="expected a target's state"):
        restore_target(None, runner)
