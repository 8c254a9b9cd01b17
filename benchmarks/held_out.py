"""Whether weights have learnt their training material by heart: the IoU of pairs from its photos, its clips, and clips that were held out.

    python -m benchmarks.held_out CONFIG WEIGHTS ... --held-out DIR [--held-out DIR] [--pairs 192] [--seed 0] [--data DIR] [--pseudo DIR]
        [--precision fp32|bf16] [--threads 2] [--json FILE|-] [--store DIR]

CONFIG: the training configuration, whose groups and augmentation make all pairs; held-out clips get backgrounds and look-alikes of its photos.
--held-out: a folder of clips NAME.mp4 with boxes NAME.txt, as the training clips', or of sequences NAME/{img/*, groundtruth.txt}. All weights see
the same pairs, none of which a training run with another seed has seen, so the difference to the first is taken pair by pair, which tells much
smaller ones from chance. The box is the one at the score map's maximum. `--store` keeps held-out.json and .md.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track

from benchmarks.harness import distinct, keep, machine, mean_and_error, write_rows
from engine.cli.exits import run_function
from engine.cli.lines import bar_is_shown
from engine.config import ModelConfig
from engine.errors import ConfigError, DatasetError
from engine.evaluation.tables import markdown_table, terminal_table
from engine.model.network import EsatNetwork, build_model
from engine.runners.preprocess import standardise
from engine.training.config import read_config
from engine.training.data import read_data
from engine.training.layouts import Pictures
from engine.training.losses import cell_boxes, overlaps
from engine.training.pairs import Batch, PairMaker
from engine.training.settings import AugmentConfig
from engine.training.sources import Clip, Pool, read_clips
from engine.training.validate import sequences
from engine.weights import find_weights
from engine.weights.shipped import name_of

_BATCH = 8
_HELD_OUT = "held out"


@dataclasses.dataclass(frozen=True)
class Row:
    """Weights on one kind of pairs: mean IoU, its standard error over pairs, the share above one half, the mean difference to the first weights on
    the same pairs, its error. No tracks: photos."""

    weights: str
    kind: str
    tracks: int
    pairs: int
    iou: float
    error: float | None
    over_half: float
    gain: float | None
    gain_error: float | None


def crops_of(model: ModelConfig) -> tuple[float, ...]:
    """Sides of template and search region in pixels, and over the target's."""
    return model.template_size, model.search_size, model.template_factor, model.search_factor


def held_out_clips(folder: Path) -> list[Clip]:
    """Every track in a folder of clips, or of sequences of pictures. DatasetError if there is none."""
    if any(folder.glob("*.mp4")):
        return [clip for tracks in read_clips(folder).values() for clip in tracks]
    return [Clip(Pictures(one.images), one.boxes) for one in sequences(folder)]


def kinds(pool: Pool, augment: AugmentConfig, apart: list[Clip]) -> dict[str, tuple[Pool, AugmentConfig]]:
    """What pairs are drawn from, by name: the training photos, the training clips, the held-out clips. None is ever absent from its region."""
    found = {}
    for name, groups, material in (
        ("training photos", pool.stills, pool),
        ("training clips", pool.clips, pool),
        (_HELD_OUT, [_HELD_OUT], Pool(pool.stills, {_HELD_OUT: apart})),
    ):
        weights = {group: augment.groups.get(group, 1.0 if group == _HELD_OUT else 0.0) for group in groups}
        if any(weights.values()):
            found[name] = (material, dataclasses.replace(augment, groups=weights, absent=0.0))
    return found


@torch.no_grad()
def overlaps_of(network: EsatNetwork, batch: Batch, keep_ratio: float, precision: str = "fp32") -> list[float]:
    """The IoU of each pair's box, where the score is largest, with the target's."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        prediction = network(standardise(batch.template), standardise(batch.search), keep_ratio, batch.template_boxes)
    best = prediction.score_map.flatten(1).argmax(1)
    boxes = cell_boxes(prediction)[torch.arange(len(best)), best]
    return list(map(float, overlaps(boxes, batch.boxes)[0]))


def rows_of(found: Mapping[str, list[float]], kind: str, tracks: int) -> Iterator[Row]:
    """One for each of the weights."""
    first = np.array(next(iter(found.values())))
    for number, (name, values) in enumerate(found.items()):
        ious = np.array(values)
        gain = mean_and_error(ious - first) if number else (None, None)
        yield Row(name, kind, tracks, len(ious), *mean_and_error(ious), float((ious > 0.5).mean()), *gain)


def table(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells."""
    head = ["pairs of", "weights", "tracks", "pairs", "mean IoU", "+-", "IoU > 0.5", "to the first"]
    cells = [
        [
            *(row.kind, row.weights, str(row.tracks or ""), str(row.pairs), f"{row.iou:.3f}", f"{row.error:.3f}", f"{row.over_half:.3f}"),
            "" if row.gain is None else f"{row.gain:+.3f} +- {row.gain_error:.3f}",
        ]
        for row in rows
    ]
    return head, cells


def markdown(rows: list[Row], about: Mapping[str, Any]) -> str:
    """The report."""
    text = (
        f"Mean IoU of the box at the score map's maximum, pairs by {about['config']} with seed {about['seed']}, {about['precision']}, on "
        f"{about['cpu']}; difference to the first weights, pair by pair; +-: the standard error over pairs, which says less than it seems where few "
        "tracks make many pairs."
    )
    return f"# Training material and held-out clips\n\n{text}\n\n{markdown_table(*table(rows))}\n"


def main(
    config: Annotated[Path, typer.Argument(help="The training configuration.")],
    weights: Annotated[list[str], typer.Argument(metavar="WEIGHTS ...", help="Presets' names or .safetensors files of its model.")],
    held_out: Annotated[list[Path], typer.Option(metavar="DIR", help="Folder of clips that nothing was trained on.")],
    pairs: Annotated[int, typer.Option(min=2, help="Of each kind.")] = 192,
    seed: Annotated[int, typer.Option(help="Of the pairs; not the training run's.")] = 0,
    data: Annotated[Path | None, typer.Option(help="The training material; default: the configuration's.")] = None,
    pseudo: Annotated[Path | None, typer.Option(help="Folder of box files for train_video_nogt/; default: the configuration's.")] = None,
    precision: Annotated[str, typer.Option(help="fp32, or bf16 (autocast) where the processor has it: in half of the time.")] = "fp32",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    json_path: Annotated[str | None, typer.Option("--json", help="Also write JSON lines to a file, or to stdout (-).")] = None,
    store: Annotated[Path | None, typer.Option(metavar="DIR", help="The device's folder under benchmarks/results, to keep it.")] = None,
) -> None:
    """Compare the IoU of weights on their training material with that on clips that were held out."""
    given = {"data": data, "pseudo": pseudo}
    settings = read_config(config, **{key: str(value) for key, value in given.items() if value is not None})
    if seed == settings.seed:
        raise ConfigError(f"--seed: expected another one than the training run's, got {seed}, whose pairs it has seen")
    if precision not in ("fp32", "bf16"):
        raise ConfigError(f"--precision: expected fp32 or bf16, got {precision!r}")
    networks = {}
    for name, source in zip(distinct([name_of(source) for source in weights]), weights, strict=True):
        loaded = find_weights(source)
        if crops_of(loaded.config) != crops_of(settings.model):
            raise ConfigError(f"{source}: expected the crops of {config}, {crops_of(settings.model)}, got {crops_of(loaded.config)}")
        network = build_model(loaded.config)
        network.load_state_dict(loaded.state_dict)
        networks[name] = network.eval()
    torch.set_num_threads(threads)
    apart = [clip for folder in held_out for clip in held_out_clips(folder) if len(clip.valid) >= 2]
    if not apart:
        raise DatasetError(f"{', '.join(map(str, held_out))}: expected tracks with two boxes of 8 pixels or more, found none")
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 150)
    rows: list[Row] = []
    for kind, (material, augment) in kinds(read_data(settings), settings.augment, apart).items():
        maker = PairMaker(material, settings.model, augment, seed)
        found: dict[str, list[float]] = {name: [] for name in networks}
        for start in track(range(0, pairs, _BATCH), kind, console=console, transient=True, disable=not bar_is_shown()):
            batch = maker.batch(start // _BATCH, _BATCH, slice(0, pairs - start))
            for name, network in networks.items():
                found[name] += overlaps_of(network, batch, settings.model.keep_ratio, precision)
        rows += rows_of(found, kind, sum(len(tracks) for group, tracks in material.clips.items() if augment.groups.get(group)))
        if not bar_is_shown():
            console.print(f"{kind}: {pairs} pairs", highlight=False)
    about = {"config": config.name, "seed": seed, "precision": precision, "held_out": [folder.name for folder in held_out], **machine()}
    console.print(terminal_table("IoU of pairs", *table(rows)))
    write_rows([{"kind": "held-out", **dataclasses.asdict(row), **about} for row in rows], json_path)
    if store is not None:
        keep(store / "held-out", {"about": about, "rows": [dataclasses.asdict(row) for row in rows]}, markdown(rows, about))


if __name__ == "__main__":
    run_function(main)
