"""Clips with boxes from stills: objects cut out of training photos move over other photos, turn, change their shape, and hide each other.

    python -m engine.training.animate DATA OUT [--clips 600] [--seed 0] [--groups coco,imagenet,raccoon]

DATA: a folder of the trainer's stills (`engine.training.sources`), of which --groups give objects and backgrounds. OUT receives NAME.mp4 with
NAME.K.txt for each object, as the trainer reads folders of clips: `nan` where less than a third of the object is seen. What is shown is not natural,
but its boxes are exact, and there is as much of it as one likes (the idea of Flying Chairs, Dosovitskiy et al. 2015).
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from engine.datasets.text import write_boxes
from engine.errors import DatasetError, EsatError
from engine.training.animation import HEIGHT, WIDTH, Actor, Scene, panned, wave
from engine.training.cutouts import Cutout, cut_out
from engine.training.sources import Still, read_stills
from engine.video.frames import Frame
from engine.video.mp4 import Mp4
from engine.video.sinks import Sinks

Generator = np.random.Generator
_Member = tuple[str, int]  # a kind, and which of its objects
_FRAMES = 12  # of a clip: far apart in time, since pairs take any two
_OTHERS = (3, 6)  # objects beside the first one: from, and less than
_SIZES = (24.0, 150.0)  # sqrt(w h) of an object in pixels
_ALIKE = 0.6  # of the clips show objects of one kind, if it has more than _MANY
_MANY = 10
_HIDING = 0.5  # of the clips have a bar in front of the objects


class Stage:
    """Draws scenes from stills, each a function of the seed and its number. DatasetError if there is no object."""

    def __init__(self, stills: Mapping[str, Sequence[Still]], seed: int):
        self._photos = [still.image for group in stills.values() for still in group]
        self._seed = seed
        self._kinds: dict[str, list[tuple[Still, int]]] = {}
        for name, group in stills.items():
            for still in group:
                for number, kind in enumerate(still.classes):
                    self._kinds.setdefault(f"{name} {kind}", []).append((still, number))
        self._members = [(kind, index) for kind, members in self._kinds.items() for index in range(len(members))]
        if not self._members:
            raise DatasetError("expected stills with boxes, found none")

    def scene(self, number: int) -> Scene:
        """Scene `number` of the seed. DatasetError if no object can be cut out of the stills."""
        rng = np.random.default_rng((self._seed, number))
        found = next(self._cutouts(rng, self._members), None)
        if found is None:
            raise DatasetError("no object could be cut out: expected boxes of 32 pixels and more, away from the pictures' borders")
        (kind, _), _ = found
        alike = rng.random() < _ALIKE and len(self._kinds[kind]) > _MANY
        members = [(kind, index) for index in range(len(self._kinds[kind]))] if alike else self._members
        cast = dict([found])  # nobody twice: which of two equal objects is the target cannot be said
        count = 1 + int(rng.integers(*_OTHERS))
        for member, cutout in itertools.chain(self._cutouts(rng, members), self._cutouts(rng, self._members)):
            if len(cast) == count:
                break
            cast[member] = cutout
        cutouts = list(cast.values())
        typical = rng.uniform(*np.log(_SIZES))
        actors = [
            _actor(cutouts[index], float(np.clip(typical + rng.normal(0, 0.35), *np.log(_SIZES))), rng)
            for index in rng.permutation(len(cutouts))
        ]
        pan = (wave(rng, 0, 0.3, 0.05), wave(rng, 0, 0.15, 0.05), wave(rng, abs(rng.normal(0, 0.3)), 0.2, 0.0))
        bar = None
        if rng.random() < _HIDING:
            photo = panned(self._photo(rng), 0.0, 0.0, 0.0)
            bar = (photo, rng.uniform(0.5, 1.6) * np.exp(typical), wave(rng, rng.uniform(0, WIDTH), 0.4 * WIDTH, 0.0))
        return Scene(self._photo(rng), pan, actors, bar)

    def _photo(self, rng: Generator) -> np.ndarray:
        return self._photos[rng.integers(len(self._photos))]

    def _cutouts(self, rng: Generator, members: Sequence[_Member]) -> Iterator[tuple[_Member, Cutout]]:
        """Those of `members` whose outline can be found, each once, in random order."""
        for place in rng.permutation(len(members)):
            kind, index = members[place]
            cutout = cut_out(*self._kinds[kind][index])
            if cutout is not None:
                yield members[place], cutout


def _actor(cutout: Cutout, size: float, rng: Generator) -> Actor:
    return Actor(
        cutout,
        bool(rng.random() < 0.5),
        x=wave(rng, rng.uniform(0.1, 0.9) * WIDTH, 0.35 * WIDTH, 0.08 * WIDTH),
        y=wave(rng, rng.uniform(0.15, 0.85) * HEIGHT, 0.2 * HEIGHT, 0.06 * HEIGHT),
        size=wave(rng, size, 0.4, 0.08),
        turn=wave(rng, rng.normal(0, 0.12), 0.35, 0.12),
        stretch=wave(rng, rng.normal(0, 0.1), 0.15, 0.12),
        bend=wave(rng, 0.0, 0.06, 0.06),
        light=wave(rng, rng.normal(0, 0.15), 0.2, 0.1),
    )


def write_clip(scene: Scene, target: Path) -> None:
    """The video `target` and a file of boxes for each object that has two. SinkError."""
    frames, boxes = zip(*(scene.frame(time) for time in np.linspace(0, 1, _FRAMES)), strict=True)
    rate = Fraction(3)
    for number, track in enumerate(np.stack(boxes, 1)):
        if np.isfinite(track).all(1).sum() >= 2:
            write_boxes(target.with_suffix(f".{number}.txt"), track)
    with Sinks([Mp4(target, WIDTH, HEIGHT, rate, 1 / rate, lambda image, _: image)]) as video:
        for index, image in enumerate(frames):
            video.write(Frame(index, index / rate, image), ())
        video.finish({})


def read_groups(data: Path, names: Collection[str]) -> dict[str, list[Still]]:
    """The stills of these groups. DatasetError for one that is not there."""
    folders = {path.name: path for path in sorted(data.glob("train_images*/*")) if (path / "img").is_dir()}
    missing = sorted(set(names) - set(folders))
    if missing:
        raise DatasetError(
            f"{data}: no pictures of the group {missing[0]}, expected some of {', '.join(folders) or 'train_images/NAME/img'}"
        )
    return {name: read_stills(folders[name]) for name in names}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Clips with boxes from stills: objects move over other photos")
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--clips", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--groups", default="coco,imagenet,raccoon")
    options = parser.parse_args(arguments)
    if options.clips < 1 or options.seed < 0:
        parser.error(f"expected one clip or more and a seed of zero or more, got {options.clips} and {options.seed}")
    try:
        stage = Stage(read_groups(options.data, options.groups.split(",")), options.seed)
        for number in range(options.clips):
            write_clip(stage.scene(number), options.out / f"animated_{options.seed}_{number:04d}.mp4")
            if (number + 1) % 20 == 0 or number + 1 == options.clips:
                print(f"{number + 1} of {options.clips} clips", flush=True)
    except EsatError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
