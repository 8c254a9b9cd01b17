"""The training loop. Every step is a function of the state and the step's number, so a run can stop and resume anywhere with the same result."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import ConfigError
from engine.runners.preprocess import standardise
from engine.training.checkpoint import CHECKPOINT, read_state, write_state
from engine.training.config import TrainConfig
from engine.training.distributed import choose_device, join
from engine.training.loader import Loader
from engine.training.losses import total_loss
from engine.training.network import TrainingModel, initialise
from engine.training.paint_device import Painter
from engine.training.pairs import Batch, PairMaker
from engine.training.schedule import keep_ratio, parameter_groups, rate_factor

LOG = "log.jsonl"


class Trainer:
    """One run in one folder: `checkpoint.pt`, `log.jsonl`."""

    def __init__(self, config: TrainConfig, pairs: PairMaker, run: str | Path):
        self.config, self.pairs, self.run_dir = config, pairs, Path(run)
        self.device = choose_device(config.device)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            if config.precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
                raise ConfigError(f"precision 'bf16' needs a GPU that computes in it, {torch.cuda.get_device_name()} does not: set 'fp32'")
        if config.augment_on == "device" or (config.augment_on == "auto" and self.device.type == "cuda" and pairs.pool.in_memory):
            pairs.painter = Painter(pairs.pool, self.device)
        self.group = join(self.device)
        self._part = self.group.part(config.batch)
        if (self._part.stop - self._part.start) % self._chunk:
            raise ConfigError(
                f"micro_batch {config.chunk} must divide the share of each of {self.group.size} processes of a batch of {config.batch}"
            )
        torch.manual_seed(config.seed)
        self.model = TrainingModel(config)
        self.step = 0
        self.seconds = 0.0
        self._fresh = not (self.run_dir / CHECKPOINT).exists()
        if self._fresh:
            initialise(self.model, config.init, config)
        self.model.to(self.device).train()
        self.averaged = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, config), fused=True)
        if not self._fresh:
            self._resume()
        self._cut_log()
        self._stop = False

    @property
    def _chunk(self) -> int:
        """Pairs of a forward pass in this process."""
        return self.config.micro_batch or self._part.stop - self._part.start

    def stop(self) -> None:
        """Ask the loop to save and return after the step it is at."""
        self._stop = True

    def _resume(self) -> None:
        state = read_state(self.run_dir / CHECKPOINT, self.config.model, self.device)
        try:
            self.model.load_state_dict(state["model"])
            self.averaged.load_state_dict(state["averaged"])
        except RuntimeError:
            rank, frozen = self.config.low_rank, self.config.frozen_layers
            raise ConfigError(
                f"{self.run_dir / CHECKPOINT}: expected the parameters of a run with low_rank {rank} above {frozen} frozen layers and the "
                "position heads as configured, got others; go on with that run's settings, or choose another folder"
            ) from None
        rates = [(group["base_lr"], group["weight_decay"]) for group in self.optimizer.param_groups]
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except ValueError:
            raise ConfigError(
                f"{self.run_dir / CHECKPOINT}: expected as many groups of equal rates as that run had, got {len(rates)} by backbone_lr, head_lr, "
                "layer_decay and weight_decay; give each another value that keeps them apart or together, or choose another folder"
            ) from None
        for group, (rate, decay) in zip(self.optimizer.param_groups, rates, strict=True):
            group["base_lr"], group["weight_decay"] = rate, decay  # the configuration decides, so that a run may be continued with others
        self.step, self.seconds = state["step"], state["seconds"]

    def _cut_log(self) -> None:
        """Drop the log's records of steps that the checkpoint does not hold and that will be made again: the run before was killed."""
        log = self.run_dir / LOG
        if self.group.rank == 0 and log.exists():
            kept = [
                line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n") and json.loads(line)["step"] <= self.step
            ]
            partial = log.with_suffix(".partial")
            partial.write_text("".join(kept))
            os.replace(partial, log)

    def save(self) -> None:
        """Write the checkpoint. The first process of a group writes, the others do not."""
        if self.group.rank:
            return
        state = {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "model_config": self.config.model.to_dict(),
        }
        write_state(self.run_dir / CHECKPOINT, state)

    def _freeze(self) -> None:
        """Keep the lower layers as they are while the configuration says so."""
        config = self.config
        frozen = config.frozen_layers if config.frozen_steps is None or self.step < config.frozen_steps else 0
        backbone = self.model.network.backbone
        for module in (backbone.patch_embed, *backbone.blocks[: config.frozen_layers]):
            module.requires_grad_(frozen == 0)
        for parameter in (backbone.pos_embed_z, backbone.pos_embed_x):
            parameter.requires_grad_(frozen == 0)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.config.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One update from one batch; the loss terms as numbers."""
        config = self.config
        self._freeze()
        factor = rate_factor(self.step, config)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        torch.manual_seed((config.seed * 1_000_003 + self.step) * self.group.size + self.group.rank)  # stochastic depth, if any
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        ratio = keep_ratio(self.step, config)
        # Losses are means over the targets that are there: a part of the batch counts by how many it has, so that the split changes nothing.
        targets = max(self.group.mean(float(batch.present.sum()), self.device), 1 / self.group.size)
        for start in range(0, len(batch.boxes), self._chunk):
            part = slice(start, start + self._chunk)
            template, search = (standardise(crops[part].to(self.device, non_blocking=True)) for crops in (batch.template, batch.search))
            boxes, template_boxes = (of[part].to(self.device) for of in (batch.boxes, batch.template_boxes))
            present = batch.present[part]
            share = max(int(present.sum()), 1) / targets
            with self._autocast():
                prediction, position = self.model(template, search, ratio, template_boxes)
            loss, terms = total_loss(prediction, position, boxes, config.model, config.losses, present.to(self.device))
            (loss * share).backward()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0) + share * value
        self.group.average_gradients(self.model)
        self.group.average(sums.values())
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        self.optimizer.step()
        self._average()
        self.step += 1
        values = torch.stack([*sums.values(), norm]).tolist()  # the step's only wait for a GPU
        return dict(zip((*sums, "norm"), values, strict=True)) | {"lr": factor, "keep": ratio}

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        mine: list[Tensor] = list(self.averaged.parameters())
        theirs: list[Tensor] = list(self.model.parameters())
        torch._foreach_lerp_(mine, theirs, 1 - decay)
        for mean, value in zip(self.averaged.buffers(), self.model.buffers(), strict=True):
            mean.copy_(value)

    def run(self, on_step: Callable[[dict[str, float]], None] | None = None, minutes: float = math.inf) -> None:
        """Train up to `config.steps`, until `stop` is called, or for so many minutes; saves now and then and at the end."""
        config = self.config
        self.run_dir.mkdir(parents=True, exist_ok=True)
        loader = Loader(lambda step: self.pairs.batch(step, config.batch, self._part), self.step, config.loader_threads)
        saved = started = time.monotonic()
        try:
            with open(os.devnull if self.group.rank else self.run_dir / LOG, "a") as log:
                for record in self._steps(loader):
                    log.write(json.dumps(record) + "\n")
                    log.flush()
                    if on_step is not None:
                        on_step(record)
                    if time.monotonic() - saved > 60 * config.checkpoint_minutes:
                        self.save()
                        saved = time.monotonic()
                    if time.monotonic() - started > 60 * minutes:
                        self.stop()
        finally:
            loader.close()
            self.save()

    def _steps(self, loader: Loader) -> Iterator[dict[str, float]]:
        while self.step < self.config.steps and not self.group.any(self._stop, self.device):
            start = time.monotonic()
            batch = loader.take()
            waited = time.monotonic() - start
            terms = self.train_step(batch)
            elapsed = time.monotonic() - start
            self.seconds += elapsed
            rounded = {name: round(value, 5) for name, value in terms.items()}
            yield {"step": self.step, **rounded, "wait_s": round(waited, 3), "step_s": round(elapsed, 3), "seconds": round(self.seconds, 1)}
