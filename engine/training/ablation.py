"""The paper's ablations at small scale: short runs that differ in one thing, over several seeds, on the data at hand.

    python -m engine.training.ablation configs/esat-s-256.yaml --steps 300 --seeds 0 1 2 --table 2 3 4

The measure is the mean IoU of the peak's box on pairs that no run has seen, by averaged weights; the table gives mean and standard deviation over
seeds. It replicates the comparison, not the figures: the paper trains for 300 epochs and measures on benchmarks.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from engine.training.config import TrainConfig, read_config
from engine.training.losses import overlaps
from engine.training.pairs import PairMaker
from engine.training.sources import Pool, read_pool
from engine.training.trainer import Trainer, to_device

_UNSEEN_SEED = 1_000_003  # of the pairs that measure; training seeds are small
_POSITION_WEIGHTS = ((0.001, 0), (0.01, 0), (0.1, 0), (0, 0.01), (0, 0.1), (0, 1), (0.01, 0.01), (0.01, 0.1), (0.1, 0.01), (0.1, 0.1))


def _variant(config: TrainConfig, absolute: float, positive: float, force: float) -> TrainConfig:
    """Position losses of these weights (0: none), alpha = beta = `force`."""
    losses = dataclasses.replace(config.losses, absolute=absolute, positive=positive)
    return config.replace(losses=losses, model=config.model.replace(alpha=force, beta=force))


def variants(config: TrainConfig, table: int) -> dict[str, TrainConfig]:
    """The rows of the paper's table 2 (components), 3 (weights of the position losses) or 4 (alpha = beta)."""
    if table == 2:
        rows = {}
        for absolute, positive, force in itertools.product((0, 0.01), (0, 0.1), (0, 0.1)):
            parts = [name for name, used in (("ABS", absolute), ("PN", positive), ("FDA", force)) if used]
            rows["+".join(parts) or "base"] = _variant(config, absolute, positive, force)
        return rows
    if table == 3:
        return {f"ABS {absolute} PN {positive}": _variant(config, absolute, positive, 0) for absolute, positive in _POSITION_WEIGHTS}
    return {f"alpha = beta = {force}": _variant(config, 0.01, 0.1, force) for force in (1.0, 0.1, 0.01)}


@torch.no_grad()
def unseen_iou(trainer: Trainer, pool: Pool, batches: int) -> float:
    """Mean IoU on pairs of a seed that no run trains with."""
    config = trainer.config
    pairs = PairMaker(pool, config.model, config.augment, _UNSEEN_SEED)
    total = 0.0
    for index in range(batches):
        batch = pairs.batch(index, config.batch)
        template, search = (to_device(crops, trainer.device) for crops in (batch.template, batch.search))
        box = trainer.averaged.network(template, search).box
        total += float(overlaps(box.float(), torch.from_numpy(batch.boxes).to(trainer.device))[0].mean())
    return total / batches


def ablate(
    config: TrainConfig, pool: Pool, tables: Sequence[int], seeds: Sequence[int], out: Path, batches: int = 8
) -> list[dict[str, object]]:
    """Train every variant with every seed (finished ones are read from `out`/results.jsonl) and return a row for each variant."""
    out.mkdir(parents=True, exist_ok=True)
    results = out / "results.jsonl"
    known = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    done = {(entry["variant"], entry["seed"], entry["steps"]): entry["iou"] for entry in known}
    rows: list[dict[str, object]] = []
    for table in tables:
        for name, changed in variants(config, table).items():
            label = f"table {table}: {name}"
            found = []
            for seed in seeds:
                key = (label, seed, config.steps)
                if key not in done:
                    settings = changed.replace(seed=seed)
                    place = out / f"{label.replace(' ', '_').replace(':', '')}_{seed}_{config.steps}"
                    trainer = Trainer(settings, PairMaker(pool, settings.model, settings.augment, seed), place)
                    trainer.run()
                    done[key] = unseen_iou(trainer, pool, batches)
                    with results.open("a") as file:
                        file.write(json.dumps({"variant": label, "seed": seed, "steps": config.steps, "iou": done[key]}) + "\n")
                found.append(done[key])
            spread = statistics.stdev(found) if len(found) > 1 else None
            rows.append({"variant": label, "iou": statistics.mean(found), "spread": spread, "seeds": len(found)})
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Small replication of the paper's ablations")
    parser.add_argument("config", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--table", type=int, nargs="+", choices=(2, 3, 4), default=[2])
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    options = parser.parse_args(arguments)
    config = read_config(options.config, steps=options.steps)
    pool = read_pool(Path(config.data), Path(config.pseudo) if config.pseudo else None)
    print(f"mean IoU on unseen pairs after {config.steps} steps of {config.batch} pairs, over {len(options.seeds)} seeds")
    for row in ablate(config, pool, options.table, options.seeds, options.out):
        spread = "" if row["spread"] is None else f" +- {row['spread']:.3f}"
        print(f"{row['variant']:32} {row['iou']:.3f}{spread}")


if __name__ == "__main__":
    main()
