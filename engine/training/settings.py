"""How pairs are made: the distribution that `pairs` and `looks` draw recipes from."""

from __future__ import annotations

import dataclasses

from engine.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Probabilities unless said otherwise. `groups` weighs the data's parts (a missing part counts nothing): NAME of a folder of stills,
    "video..." of a folder of clips, "video2:fod" of those of its clips whose names begin with "fod_", "pseudo"."""

    groups: dict[str, float] = dataclasses.field(
        default_factory=lambda: {"coco": 0.4, "imagenet": 0.25, "bsds": 0.08, "video": 0.27, "pseudo": 0.4}
    )
    max_gap: int = 100  # frames between template and search of a clip
    centre_jitter: float = 3.0  # range of the target's place, in target sizes (public code: 3 at 256 px, 4.5 at 384)
    scale_jitter: float = 0.3  # standard deviation of the log of the crop's size
    rotation: float = 6.0  # standard deviation in degrees, stills only
    aspect: float = 0.1  # standard deviation of the log of the aspect ratio, stills only
    flip: float = 0.5  # both crops together
    flip_apart: float = 0.0  # each crop by itself, after that
    composite: float = 0.2  # the target moved onto another picture
    fill: float = 0.5  # outside of the picture: another picture instead of black
    distractor: float = 0.5  # other objects pasted beside the target
    distractors: int = 3  # at most so many of them
    occlusion: float = 0.15
    reframe: float = 0.0  # another box for the object in both crops: a part of it, or more than it
    bend: float = 0.0  # an elastic change of the target, stills only
    leaving: float = 0.0  # the picture ends within the target, which keeps at least 40 % of its width or height
    absent: float = 0.0  # the target is not in the search region: hidden, beside it, or another place altogether
    grey: float = 0.08
    low_resolution: float = 0.4
    smallest_target: float = 12.0  # size in pixels (sqrt(w h)) that a target of low resolution has at least in its frame
    blur: float = 0.2
    noise: float = 0.1
    colours: float = 0.7  # strength of the colour jitter
    brightness: float = 0.0  # every value times a factor of 1 +- this, each crop by itself
    hue: float = 0.2  # all hues turned, both crops together

    def __post_init__(self) -> None:
        probabilities = (
            "flip",
            "flip_apart",
            "composite",
            "fill",
            "distractor",
            "occlusion",
            "reframe",
            "bend",
            "leaving",
            "absent",
            "grey",
            "low_resolution",
            "blur",
            "noise",
            "hue",
        )
        for name in (*probabilities, "brightness"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"augment: {name} must lie in [0, 1], got {getattr(self, name)!r}")
        if not (isinstance(self.distractors, int) and self.distractors >= 1):
            raise ConfigError(f"augment: distractors must be a whole number of one or more, got {self.distractors!r}")
        if not self.smallest_target >= 2:
            raise ConfigError(f"augment: smallest_target must be two pixels or more, got {self.smallest_target!r}")
        if not self.groups or min(self.groups.values()) < 0:
            raise ConfigError(f"augment: groups must name parts of the data with weights of zero or more, got {self.groups!r}")
