"""The paper's ablations at small scale: short runs that differ in one thing, over several seeds, on the data at hand.

    python -m benchmarks.ablation configs/ablation-small.yaml --seeds 0 1 2 --tables 2 3 4 --held-out ../shared/data/eval_dev

Rows of table 2 (components), 3 (weights of the position losses) and 4 (alpha = beta). Runs with one seed start from the same parameters and see the
same pairs. The measure is the mean IoU of the peak's box on pairs of sequences that no run has seen, by averaged weights. It replicates the
comparisons, not the figures: the paper trains for 300 epochs and measures on benchmarks. Finished runs are read from OUT/SETTINGS/runs.jsonl, so an
interrupted ablation goes on where it stopped; SETTINGS changes with the configuration and the held-out folder. `--report DIR` writes ablation.json,
ablation.md and ablation.png from them.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.ablation_report import Run, Variant, report, write_report
from engine.runners.preprocess import standardise
from engine.training.config import TrainConfig, read_config
from engine.training.data import read_data
from engine.training.export import commit
from engine.training.layouts import Pictures
from engine.training.losses import overlaps
from engine.training.memory import keep_freed_memory
from engine.training.pairs import PairMaker
from engine.training.settings import AugmentConfig
from engine.training.sources import Clip, Pool
from engine.training.trainer import LOG, Trainer
from engine.training.validate import sequences

_POSITION_WEIGHTS = ((0.001, 0), (0.01, 0), (0.1, 0), (0, 0.01), (0, 0.1), (0, 1), (0.01, 0.01), (0.01, 0.1), (0.1, 0.01), (0.1, 0.1))
_LAST = 20  # steps at a run's end whose losses are averaged
_HELD_OUT_GROUP = "held out"
_RUNS = "runs.jsonl"
_NO_RESULT = ("seed", "notes", "loader_threads", "checkpoint_minutes")  # what a run with a seed does not depend on


def apply(variant: Variant, config: TrainConfig) -> TrainConfig:
    """The configuration with the variant's loss weights and forces."""
    losses = dataclasses.replace(config.losses, absolute=variant.absolute, positive=variant.positive)
    return config.replace(losses=losses, model=config.model.replace(alpha=variant.force, beta=variant.force))


def rows(table: int) -> dict[str, Variant]:
    """Label -> variant of the paper's table 2, 3 or 4; the first row is what the others are compared with."""
    if table == 2:
        found = {}
        for absolute, positive, force in itertools.product((0, 0.01), (0, 0.1), (0, 0.1)):
            parts = [name for name, used in (("ABS", absolute), ("PN", positive), ("FDA", force)) if used]
            found[" + ".join(parts) or "base"] = Variant(absolute, positive, force)
        return found
    if table == 3:
        weights = {f"ABS {absolute} PN {positive}": Variant(absolute, positive, 0) for absolute, positive in _POSITION_WEIGHTS}
        return {"base": Variant(0, 0, 0)} | weights
    return {f"alpha = beta = {force}": Variant(0.01, 0.1, force) for force in (0.1, 1.0, 0.01)}


def held_out_pairs(folder: Path, config: TrainConfig) -> PairMaker:
    """Pairs of the sequences in `folder`, jittered as in training but without any augmentation of the pictures."""
    clips = [Clip(Pictures(sequence.images), sequence.boxes) for sequence in sequences(folder)]
    plain = dict.fromkeys(("flip", "composite", "fill", "distractor", "occlusion", "grey", "low_resolution", "blur", "noise", "hue"), 0.0)
    augment = AugmentConfig(
        groups={_HELD_OUT_GROUP: 1.0},
        max_gap=config.augment.max_gap,
        centre_jitter=config.augment.centre_jitter,
        scale_jitter=config.augment.scale_jitter,
        rotation=0.0,
        aspect=0.0,
        colours=0.0,
        **plain,
    )
    return PairMaker(Pool({}, {_HELD_OUT_GROUP: clips}), config.model, augment, seed=0)


@torch.no_grad()
def mean_iou(trainer: Trainer, pairs: PairMaker, batches: int) -> float:
    """Mean IoU of the averaged weights' box at the score map's peak over the first `batches` batches of `pairs`."""
    total = 0.0
    for index in range(batches):
        batch = pairs.batch(index, trainer.config.batch)
        template, search = (standardise(crops.to(trainer.device)) for crops in (batch.template, batch.search))
        box = trainer.averaged.network(template, search).box
        total += float(overlaps(box.float(), batch.boxes.to(trainer.device))[0].mean())
    return total / batches


def _train(variant: Variant, seed: int, config: TrainConfig, pool: Pool, held_out: PairMaker, folder: Path, batches: int) -> Run:
    settings = apply(variant, config).replace(seed=seed)
    trainer = Trainer(settings, PairMaker(pool, settings.model, settings.augment, seed), folder)
    trainer.run()
    log = [json.loads(line) for line in (folder / LOG).read_text().splitlines()][-_LAST:]
    training = sum(record["iou"] for record in log) / len(log)
    run = Run(variant, seed, config.steps, mean_iou(trainer, held_out, batches), training, commit())
    shutil.rmtree(folder)
    return run


def settings_of(config: TrainConfig, held_out: Path) -> str:
    """Names what the runs of an ablation share: a run is not taken for that of another configuration, or of other held-out sequences."""
    values = {name: value for name, value in config.to_dict().items() if name not in _NO_RESULT}
    return hashlib.sha256(json.dumps([values, str(held_out.resolve())], sort_keys=True).encode()).hexdigest()[:16]


def finished(out: Path) -> list[Run]:
    """The runs that `out` holds."""
    file = out / _RUNS
    return [Run.read(json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []


def ablate(
    config: TrainConfig, pool: Pool, held_out: PairMaker, tables: Sequence[int], seeds: Sequence[int], out: Path, batches: int = 15
) -> list[Run]:
    """Train every variant of the tables with every seed, a seed after the other; runs that are in `out`/runs.jsonl, all of one
    configuration, are taken from there."""
    out.mkdir(parents=True, exist_ok=True)
    known = {(*dataclasses.astuple(run.variant), run.seed): run for run in finished(out)}
    wanted = list(dict.fromkeys(variant for table in tables for variant in rows(table).values()))  # tables share rows
    found = []
    for seed, variant in itertools.product(seeds, wanted):
        key = (*dataclasses.astuple(variant), seed)
        if key not in known:
            folder = out / "-".join(str(part) for part in key)  # a run that was cut off goes on from its checkpoint
            known[key] = _train(variant, seed, config, pool, held_out, folder, batches)
            with (out / _RUNS).open("a") as target:
                target.write(json.dumps(known[key].record()) + "\n")
        found.append(known[key])
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Small-scale replication of the paper's ablations")
    parser.add_argument("config", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tables", type=int, nargs="+", choices=(2, 3, 4), default=[2, 3, 4])
    parser.add_argument("--held-out", type=Path, default=Path("../shared/data/eval_dev"), help="sequences NAME/{img/*, groundtruth.txt}")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--init", help="as in the configuration")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", type=Path, help="folder for ablation.json, ablation.md, ablation.png")
    parser.add_argument("--finished", action="store_true", help="report what is finished, train nothing")
    options = parser.parse_args(arguments)
    config = read_config(options.config, **({"init": options.init} if options.init else {}))
    out = options.out / settings_of(config, options.held_out)
    if options.finished:
        runs = finished(out)
    else:
        torch.set_num_threads(options.threads)
        keep_freed_memory()
        pairs = held_out_pairs(options.held_out, config)
        runs = ablate(config, read_data(config), pairs, options.tables, options.seeds, out)
    tables = {number: rows(number) for number in options.tables}
    print(report(runs, tables, config))
    if options.report:
        write_report(runs, tables, config, options.report)


if __name__ == "__main__":
    main()
