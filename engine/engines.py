"""Which engine runs a model on this machine."""

from __future__ import annotations

import torch

import esat_kernels
from engine import forks
from engine.config import ModelConfig
from engine.cpu.runner import CpuRunner, unsupported
from engine.errors import ConfigError, DeviceError
from engine.runner import DTYPES, Runner
from engine.torch_runner import TorchRunner
from engine.weights.io import Weights


def make_runner(weights: Weights, device: str = "auto", dtype: str = "auto", backend: str = "auto") -> Runner:
    """The fastest runner for this machine.

    device: "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:N". dtype: "auto", "fp32", "bf16" or "fp16";
    "auto" is bf16 on CUDA and where the CPU engine runs (processors with AMX tiles), otherwise fp32.
    backend: the attention kernel's, "auto" for the fastest. DeviceError or ConfigError if what was named is not there.
    """
    forks.prepare()
    device = resolve_device(device)
    amx_missing = _amx_missing(weights.config, device, backend)
    if dtype == "auto":
        dtype = "bf16" if device.startswith("cuda") or amx_missing is None else "fp32"
    if dtype not in DTYPES:
        raise ConfigError(f"dtype must be auto, {', '.join(DTYPES)}, got {dtype!r}")
    reason = None if backend == "auto" else esat_kernels.backends().get(backend, "there is no such backend")
    if reason is not None:
        raise DeviceError(f"attention backend {backend!r} cannot run here: {reason}")
    if dtype == "bf16" and amx_missing is None:
        return CpuRunner(weights)
    return TorchRunner(weights.model(backend), device, dtype)


def _amx_missing(config: ModelConfig, device: str, backend: str) -> str | None:
    """Why the AMX engine is not to be used, or None."""
    if device != "cpu" or backend not in ("auto", "cpu"):
        return "another device or backend was asked for"
    return unsupported(config)


def resolve_device(device: str) -> str:
    """ "auto" as the device it stands for; DeviceError for one that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise DeviceError(f"device must be auto, cpu, cuda or cuda:N, got {device!r}")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(number or 0) >= count:
            raise DeviceError(f"device {device!r} asked for, but PyTorch {torch.__version__} sees {count} CUDA devices: use --device cpu")
    return device
