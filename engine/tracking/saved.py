"""A target's state as plain data, and back: for services that keep it between calls, or hand it to another process.

The template is kept as pixels, so a state may go on under another runner (device, dtype) of a model with the same template. Nothing in it is
code: strings, numbers, lists, and arrays as base64 under the names of the classes below. What is no such state is a StateError.
"""

from __future__ import annotations

import base64
import binascii
import collections
import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

import esat_kernels
from engine.boxes import Box
from engine.errors import StateError
from engine.runners.protocol import Runner
from engine.tracking.confidence import AppearanceModel
from engine.tracking.rival import Rival
from engine.tracking.search import LostSearch
from engine.tracking.state import StateMachine, StateThresholds, TargetState
from engine.tracking.target import Target

FORMAT = "esat-target-5"
_CLASSES = {kind.__name__: kind for kind in (Target, AppearanceModel, Rival, LostSearch, StateMachine, StateThresholds)}
_FIELDS = {  # of a state of this format; without the template, which is kept as pixels
    "Target": "box beside switches template_box _thresholds _public _machine _appearance _frame_index _last_seen _rival",
    "AppearanceModel": "_frames _score _weighted _features",
    "Rival": "_limits _last _region_over_size _search _step _leads _candidate _probation",
    "LostSearch": "frame_size _size _centre _cell_width _cells",
    "StateMachine": "_thresholds _may_lose state searching _recent",
    "StateThresholds": " ".join(field.name for field in dataclasses.fields(StateThresholds)),
}
_BORDER = 2  # pixels around the template: the crop blackens the last column and row where it touches the frame's border


def template_picture(runner: Runner, frame: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    """The pixels [S, S, 3] that the runner makes a target's template of."""
    picture, _ = esat_kernels.crop_resize(frame, box, runner.config.template_factor, runner.config.template_size)
    return picture


def save_target(target: Target, picture: NDArray[np.uint8]) -> dict[str, Any]:
    """What `restore_target` makes the target of again; `json.dumps` takes it. picture: `template_picture` of its first frame."""
    return {"format": FORMAT, "template": _plain(picture), "target": _plain(target)}


def restore_target(saved: Any, runner: Runner, bgr: bool = True) -> tuple[Target, NDArray[np.uint8]]:
    """The target, which goes on as if it had never been saved, and its picture. bgr: the order of the frames' channels. StateError."""
    if not isinstance(saved, dict) or saved.get("format") != FORMAT:
        raise StateError(f"expected a target's state of the format {FORMAT!r}, got {str(saved)[:60]!r}")
    try:
        target, picture = _object(saved["target"]), _object(saved["template"])
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error, RecursionError) as error:
        raise StateError(f"a target's state is damaged: {type(error).__name__}: {error}") from error
    size = runner.config.template_size
    if not isinstance(target, Target) or not isinstance(picture, np.ndarray) or picture.dtype != np.uint8:
        raise StateError("a target's state is damaged: it holds no target with a template")
    if picture.shape != (size, size, 3):
        raise StateError(f"a target's state is for templates of {picture.shape[0]} pixels, but the model's have {size}")
    framed = np.zeros((size + 2 * _BORDER, size + 2 * _BORDER, 3), np.uint8)
    framed[_BORDER:-_BORDER, _BORDER:-_BORDER] = picture
    side = size / runner.config.template_factor  # a box whose crop is the picture, pixel by pixel
    corner = _BORDER + 0.5 * (size - side)
    target.template = runner.encode_template(framed, (corner, corner, side, side), bgr, target.template_box)
    return target, picture


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, TargetState):
        return {"state": str(value)}
    if isinstance(value, np.ndarray):
        return {"array": str(value.dtype), "shape": list(value.shape), "data": base64.b64encode(value.tobytes()).decode()}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple | list):
        return {type(value).__name__: [_plain(entry) for entry in value]}
    if isinstance(value, collections.deque):
        return {"deque": [_plain(entry) for entry in value], "maxlen": value.maxlen}
    if type(value).__name__ in _CLASSES:
        fields = {name: _plain(entry) for name, entry in vars(value).items() if name != "template"}
        return {"class": type(value).__name__, "fields": fields}
    raise StateError(f"a target's state holds a {type(value).__name__}, which cannot be saved")


def _object(plain: Any) -> Any:
    if plain is None or isinstance(plain, bool | int | float):
        return plain
    if "state" in plain:
        return TargetState(plain["state"])
    if "array" in plain:
        if plain["array"] not in ("uint8", "float32", "float64", "int64"):
            raise ValueError(f"arrays of {plain['array']!r}")
        return np.frombuffer(base64.b64decode(plain["data"], validate=True), plain["array"]).reshape(plain["shape"]).copy()
    if "deque" in plain:
        return collections.deque(map(_object, plain["deque"]), maxlen=plain["maxlen"])
    if "class" in plain:
        kind = _CLASSES[plain["class"]]
        expected = _FIELDS[plain["class"]].split()
        if set(plain["fields"]) != set(expected):
            raise ValueError(f"a {plain['class']} has the fields {', '.join(expected)}, got {', '.join(plain['fields'])}")
        made = kind.__new__(kind)
        for name, entry in plain["fields"].items():
            object.__setattr__(made, name, _object(entry))  # StateThresholds is frozen
        return made
    if "tuple" in plain:
        return tuple(map(_object, plain["tuple"]))
    return list(map(_object, plain["list"]))
