"""One run on several processes, started by torchrun: each takes a part of every batch, gradients are averaged, parameters stay equal."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable

import torch
from torch import Tensor, distributed, nn

from engine.errors import ConfigError
from engine.runners.device import resolve_device


@dataclasses.dataclass(frozen=True)
class Group:
    """The processes of a run; `Group()` is a run of one."""

    rank: int = 0
    size: int = 1

    def part(self, batch: int) -> slice:
        """This process's pairs of a batch. ConfigError if they cannot be shared out evenly."""
        if batch % self.size:
            raise ConfigError(f"batch must be a multiple of the number of processes, got {batch} and {self.size}")
        share = batch // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, in one transfer."""
        if self.size == 1:
            return
        tensors = list(tensors)
        flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        flat /= self.size
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.detach().copy_(mean.view_as(tensor))

    def average_gradients(self, module: nn.Module) -> None:
        """Mean gradients, the same in every process."""
        self.average(value.grad for value in module.parameters() if value.grad is not None)

    def mean(self, value: float, device: torch.device) -> float:
        """The mean over the processes."""
        if self.size == 1:
            return value
        there = torch.tensor(value, device=device)
        self.average([there])
        return float(there)

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set in one of the processes."""
        if self.size == 1:
            return flag
        votes = torch.tensor([float(flag)], device=device)
        distributed.all_reduce(votes)
        return bool(votes.item())


def in_first_process() -> bool:
    """Whether this is the process that tells the user what happens: by torchrun's environment, before there is a group."""
    return os.environ.get("RANK", "0") == "0"


def share_threads(threads: int) -> int:
    """How many of `threads` are for this process, where torchrun started several on this machine: one at least."""
    return max(1, threads // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def choose_device(name: str) -> torch.device:
    """`resolve_device`; `auto` is the GPU that torchrun gave this process."""
    device = torch.device(resolve_device(name))
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if name == "auto" and device.type == "cuda" else device


def join(device: torch.device) -> Group:
    """The group that torchrun's environment describes (NCCL on GPUs, gloo on CPUs), or a run of one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Group()
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Group(distributed.get_rank(), distributed.get_world_size())


def leave() -> None:
    """End what `join` began, if it began anything: the group's threads must not outlive the interpreter that ends around them."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
