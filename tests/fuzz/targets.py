"""What is fed with damaged input. Each target makes one damaged input from a random generator and gives it to the public function that reads it.

A target may end in any way that is no surprise: a result, or an EsatError.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from safetensors.torch import save

from engine import Tracker, build_model
from engine.clips.given import parse_box
from engine.datasets.layouts import open_dataset
from engine.datasets.text import read_boxes, read_labels
from engine.evaluation import metrics, tracking
from engine.evaluation.report import truth_of
from engine.training.config import parse, read_config
from engine.training.export import export_checkpoint
from engine.video import Reader, open_source
from engine.weights import from_ostrack, load_weights, save_weights
from engine.weights.checkpoint import read_checkpoint
from engine.weights.convert import convert, find_state_dict
from tests.engine.video.clips import pictures, write_clip
from tests.fuzz.mutate import ODD_VALUES, mutate_bytes, mutate_value
from tests.networks import TINY

CONFIG = TINY.replace(name="fuzz", dim=16, heads=1)
FRAME = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
PLANTED = "planted"  # a file that appears in the working directory if code of an input is run


class _Planted:
    def __reduce__(self) -> Any:
        return os.system, (f"touch {PLANTED}",)


@dataclasses.dataclass
class Corpus:
    """Good files, made once."""

    folder: Path

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.state = build_model(CONFIG).state_dict()
        self.weights = save(self.state, {"format": "esat-1", "config": json.dumps(CONFIG.to_dict())})
        buffer = io.BytesIO()
        torch.save({"net": self.state, "epoch": 300, "settings": {"a": [1, 2.5, "b"]}}, buffer)
        self.checkpoint = buffer.getvalue()
        buffer = io.BytesIO()
        torch.save({"net": self.state, "extra": _Planted()}, buffer)
        self.planted = buffer.getvalue()
        buffer = io.BytesIO()
        averaged = {f"network.{name}": value for name, value in self.state.items()}
        torch.save({"averaged": averaged, "step": 7, "model_config": CONFIG.to_dict()}, buffer)
        self.training = buffer.getvalue()
        self.videos = {
            "a.mp4": write_clip(self.folder / "a.mp4", pictures(6)).read_bytes(),
            "a.mkv": write_clip(self.folder / "a.mkv", pictures(4)).read_bytes(),
            "a.avi": write_clip(self.folder / "a.avi", pictures(4), codec="mpeg4").read_bytes(),
        }
        self.images = {f"1{suffix}": cv2.imencode(suffix, FRAME)[1].tobytes() for suffix in (".jpg", ".png", ".bmp", ".webp", ".tiff")}
        self.yaml = Path("configs/esat-s-256-seventh.yaml").read_text()
        outcome = {"key": "k", "fingerprint": "f", "name": "a", "boxes": [[1.0, 2.0, 3.0, 4.0]] * 3, "scores": [1.0, 0.5, 0.4]}
        self.outcome = {**outcome, "times_ms": [1.0, 2.0, 3.0], "model": "m", "device": "cpu", "dtype": "fp32"}


def weights_file(corpus: Corpus, rng: random.Random, folder: Path) -> None:
    """Bytes, or the JSON header, or the values of a .safetensors file; what loads must track."""
    data = corpus.weights
    match rng.randrange(4):
        case 0:
            data = mutate_bytes(data, rng)
        case 1:  # the header alone, its length made right
            size = int.from_bytes(data[:8], "little")
            header = json.dumps(mutate_value(json.loads(data[8 : 8 + size]), rng)).encode()
            data = len(header).to_bytes(8, "little") + header + data[8 + size :]
        case 2:
            config = json.dumps(mutate_value(CONFIG.to_dict(), rng))
            data = save(corpus.state, {"format": "esat-1", "config": config})
        case 3:
            state = dict(corpus.state)
            name = rng.choice(list(state))
            state[name] = rng.choice(
                [torch.full_like(state[name].float(), float("nan")), torch.zeros(0), state[name].double(), state[name][None]]
            )
            data = save(state, {"format": "esat-1", "config": json.dumps(CONFIG.to_dict())})
    path = folder / "a.safetensors"
    path.write_bytes(data)
    try:
        tracker = Tracker(load_weights(path), device="cpu", dtype="fp32")
    finally:
        path.unlink()
    tracker.init(FRAME, (20, 15, 20, 15))
    assert np.isfinite(tracker.update(FRAME).box).all()


def checkpoint_file(corpus: Corpus, rng: random.Random, folder: Path) -> None:
    """A .pth.tar: the bytes of the archive, or of one member, repacked so that its checksum is right; some with planted code."""
    data = rng.choice((corpus.checkpoint, corpus.planted))
    data = _repack(data, rng) if rng.random() < 0.7 else mutate_bytes(data, rng)
    path = folder / "a.pth.tar"
    path.write_bytes(data)
    try:
        save_weights(folder / "out.safetensors", from_ostrack(find_state_dict(read_checkpoint(path)), CONFIG), CONFIG)
        convert(path, folder / "never.safetensors")
    finally:
        path.unlink()
        (folder / "out.safetensors").unlink(missing_ok=True)


def training_checkpoint(corpus: Corpus, rng: random.Random, folder: Path) -> None:
    """The checkpoint of a training run."""
    path = folder / "checkpoint.pt"
    path.write_bytes(_repack(corpus.training, rng) if rng.random() < 0.7 else mutate_bytes(corpus.training, rng))
    try:
        export_checkpoint(path, folder / "out.safetensors", parse({}))
    finally:
        path.unlink()
        (folder / "out.safetensors").unlink(missing_ok=True)


def _repack(data: bytes, rng: random.Random) -> bytes:
    """The same archive with one member changed, most often the pickle."""
    source, buffer = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    names = source.namelist()
    victim = next(name for name in names if name.endswith("data.pkl")) if rng.random() < 0.8 else rng.choice(names)
    with zipfile.ZipFile(buffer, "w") as target:
        for name in names:
            content = source.read(name)
            if name == victim:
                content = _mutate_pickle(content, rng) if name.endswith("data.pkl") else mutate_bytes(content, rng)
                if rng.random() < 0.1:
                    continue
            target.writestr(name, content)
    return buffer.getvalue()


def _mutate_pickle(content: bytes, rng: random.Random) -> bytes:
    match rng.randrange(3):
        case 0:
            return mutate_bytes(content, rng)
        case 1:  # a name for another of the same length
            old, new = rng.choice(
                [(b"FloatStorage", b"DoubleStorag"), (b"OrderedDict", b"defaultdict"), (b"torch._utils", b"posix.system")]
            )
            return content.replace(old, new)
        case _:
            return pickle.dumps(mutate_value({"net": {"w": [1, 2]}, "epoch": 3}, rng), protocol=rng.randrange(5))


def video_file(corpus: Corpus, rng: random.Random, folder: Path) -> None:
    """Every frame that comes is a picture; then the end, or a SourceError."""
    name = rng.choice(list(corpus.videos))
    path = folder / name
    path.write_bytes(mutate_bytes(corpus.videos[name], rng))
    try:
        with Reader(open_source(path)) as reader:
            for count, frame in enumerate(reader):
                assert frame.image.dtype == np.uint8
                assert frame.image.ndim == 3
                if count == 40:
                    break
    finally:
        path.unlink()


def image_file(corpus: Corpus, rng: random.Random, folder: Path) -> None:
    name = rng.choice(list(corpus.images))
    (folder / name).write_bytes(mutate_bytes(corpus.images[name], rng))
    try:
        with open_source(folder) as source:
            for frame in source:
                assert frame.image.shape[2] == 3
    finally:
        (folder / name).unlink()


def training_config(corpus: Corpus, rng: random.Random, folder: Path) -> None:
    """YAML, of the file or of its base: its text, or its values; some ask for code."""
    match rng.randrange(3):
        case 0:
            text = mutate_bytes(corpus.yaml.encode(), rng)
        case 1:
            text = yaml.safe_dump(mutate_value(yaml.safe_load(corpus.yaml), rng)).encode()
        case 2:
            line = rng.choice(["data", "seed", "model", "losses"])
            text = corpus.yaml.encode() + f'\n{line}: !!python/object/apply:os.system ["touch {PLANTED}"]\n'.encode()
    path, base = folder / "a.yaml", folder / "b.yaml"
    below = rng.random() < 0.5
    path.write_bytes(corpus.yaml.encode() + b"\nbase: b.yaml\n" if below else text)
    base.write_bytes(text)
    try:
        read_config(path)
    finally:
        path.unlink()
        base.unlink()


def kept_result(corpus: Corpus, rng: random.Random, folder: Path) -> None:
    """A result that `esat eval` would go on from: whole, or as if it were not there."""
    text = json.dumps(mutate_value(corpus.outcome, rng)).encode()
    path = folder / "a.json"
    path.write_bytes(mutate_bytes(text, rng) if rng.random() < 0.5 else text)
    outcome = tracking.load(folder, "a", "k", "f")
    path.unlink()
    if outcome is None:
        return
    assert outcome.name == "a"
    truth = metrics.Truth("a", np.array([[1.0, 2.0, 3.0, 4.0]] * len(outcome.boxes)), (64, 48))
    metrics.evaluate("otb", truth, outcome.boxes)
    assert isinstance(outcome.fps, float)
    json.dumps(dataclasses.asdict(dataclasses.replace(outcome, boxes=outcome.boxes.tolist())), allow_nan=False)


def annotations(corpus: Corpus, rng: random.Random, folder: Path) -> None:
    """Text files of boxes and labels, and an OTB folder around one."""
    text = mutate_bytes(
        rng.choice([b"1,2,3,4\n5,6,7,8\n", b"1 2 3 4\n\nnan nan\n", b"1\t2\t3\t4\r\n0;1\n", b"1,2,5,2,5,6,1,6\n\n1,2,3,4\n"]), rng
    )
    sequence = folder / "a"
    (sequence / "img").mkdir(parents=True)
    (sequence / "img" / "0001.png").write_bytes(corpus.images["1.png"])
    (sequence / "groundtruth_rect.txt").write_bytes(text)
    try:
        for sequence_ in open_dataset(folder, "otb").sequences:
            truth_of(sequence_)
        rng.choice((read_boxes, read_labels))(sequence / "groundtruth_rect.txt")
    finally:
        for path in sorted(sequence.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        sequence.rmdir()


def box_text(corpus: Corpus, rng: random.Random, folder: Path) -> None:
    """What a user may type after --box."""
    parse_box(mutate_bytes(b"10,20,30.5,40", rng).decode("latin-1"))
    parse_box(",".join(str(rng.choice(ODD_VALUES)) for _ in range(rng.randint(3, 5))))


TARGETS: dict[str, Callable[[Corpus, random.Random, Path], None]] = {
    function.__name__: function
    for function in (
        weights_file,
        checkpoint_file,
        training_checkpoint,
        video_file,
        image_file,
        training_config,
        kept_result,
        annotations,
        box_text,
    )
}
