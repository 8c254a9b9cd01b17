"""How sure we are that what a frame shows is the target.

The raw score tells that there is something, not that it is the target: on clips with the target out of the picture it falls by a third only.
What the encoder makes of the place where the box was read tells more, so the confidence is

    min(1, score / its usual value) * max(0, cosine(features there, the usual ones there))

where "usual" is a running mean over this target's own sure frames. It needs no threshold of the weights' own: each target is its own yardstick.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.runners.protocol import Observation

_FIRST = 16  # frames whose plain mean is the first yardstick
_SLOW = 1 / 100  # share of each later frame: fast enough for a target that turns, too slow for what covers it


class AppearanceModel:
    """The running means over a target's sure frames. Without features (an engine that gives none) the scores decide alone."""

    def __init__(self) -> None:
        self._frames = 0
        self._score = 0.0
        self._weighted = 0.0
        self._features: NDArray[np.float32] | None = None

    def learn(self, seen: Observation) -> None:
        """Take in a frame that surely showed the target."""
        self._frames += 1
        rate = 1.0 / self._frames if self._frames <= _FIRST else _SLOW
        self._score += rate * (seen.score - self._score)
        self._weighted += rate * (seen.weighted_score - self._weighted)
        if seen.features is not None:
            unit = _unit(seen.features)
            self._features = unit if self._features is None else self._features + np.float32(rate) * (unit - self._features)

    def confidence(self, seen: Observation, centred: bool = True) -> float:
        """0 to 1; 1 before anything was learnt. centred: the region lies around the last box, so that the Hann-weighted score counts."""
        if self._frames == 0:
            return 1.0
        now, usual = (seen.weighted_score, self._weighted) if centred else (seen.score, self._score)
        ratio = min(1.0, now / usual) if usual > 0 else 0.0
        if self._features is None or seen.features is None:
            return ratio
        return ratio * max(0.0, float(_unit(seen.features) @ _unit(self._features)))


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    length = float(np.linalg.norm(vector))
    return vector / np.float32(length) if length > 0 else vector
