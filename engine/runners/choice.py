"""Which engine runs a model on this machine."""

from __future__ import annotations

import warnings

import torch

import esat_kernels
from engine import workers
from engine.config import ModelConfig
from engine.errors import ConfigError, DeviceError, EsatWarning
from engine.runners.cpu.runner import CpuRunner, unsupported
from engine.runners.device import resolve_device
from engine.runners.gpu.runner import GpuRunner
from engine.runners.protocol import MODES, Runner
from engine.runners.pytorch import TorchRunner
from engine.weights.io import Weights


def make_runner(weights: Weights, device: str = "auto", dtype: str = "auto", backend: str = "auto") -> Runner:
    """The fastest runner for this machine.

    device: "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:N". dtype: "auto", "fp32", "bf16", "fp16", "int8" or "fp8";
    "auto" is bf16 on CUDA and where the CPU engine has it (AVX-512 with bf16, AMX), otherwise fp32. "int8" is the CPU engine's only, "fp8" the
    GPU engine's, from compute capability 8.9 on.
    A dtype that was named and that only PyTorch computes here, several times slower than the engine in another, is an EsatWarning.
    backend: the attention kernel's, "auto" for the fastest. On CUDA "triton" and "cuda" name the GPU engine, and "auto" takes it where its
    kernels have been verified on this device; otherwise PyTorch runs the network. DeviceError or ConfigError if what was named is not there.
    """
    workers.prepare()
    device = resolve_device(device)
    named = dtype != "auto"
    if not named:
        dtype = "bf16" if device.startswith("cuda") or cpu_engine_unsupported(weights.config, "bf16", device, backend) is None else "fp32"
    if dtype not in MODES:
        raise ConfigError(f"dtype must be auto, {', '.join(MODES)}, got {dtype!r}")
    reason = None if backend == "auto" else esat_kernels.backends().get(backend, "there is no such backend")
    if reason is not None:
        raise DeviceError(f"attention backend {backend!r} cannot run here: {reason}")
    missing = cpu_engine_unsupported(weights.config, dtype, device, backend)
    if missing is None:
        return CpuRunner(weights, dtype)
    if dtype == "int8":
        raise DeviceError(f"int8 runs on the CPU engine only: {missing}")
    kernels = _gpu_kernels(device, backend)
    if dtype == "fp8" and kernels is None:
        instead = f"got {device}: dtype int8 is the CPU engine's" if device == "cpu" else f"got backend {backend!r}: name triton or cuda"
        raise DeviceError(f"fp8 runs on the GPU engine only, on CUDA devices from compute capability 8.9 on, {instead}")
    if kernels is not None:
        return GpuRunner(weights, device, dtype, kernels)
    if named and dtype != "fp32" and cpu_engine_unsupported(weights.config, "fp32", device, backend) is None:
        slow = f"dtype {dtype} will be slow, since PyTorch computes it here: {missing}; dtype fp32, or auto, runs on the CPU engine"
        warnings.warn(slow, EsatWarning, stacklevel=2)
    return TorchRunner(weights.model(backend), device, dtype)


def _gpu_kernels(device: str, backend: str) -> str | None:
    """The kernels of the GPU engine: those that were named, or the fastest that were verified on this device; None: not this engine."""
    if not device.startswith("cuda"):
        return None
    if backend == "auto":
        return next(iter(esat_kernels.verified_backends(torch.device(device))), None)
    return backend if backend in ("triton", "cuda") else None


def cpu_engine_unsupported(config: ModelConfig, dtype: str, device: str = "cpu", backend: str = "auto") -> str | None:
    """Why `make_runner` takes PyTorch instead of the native CPU engine, or None: it does not."""
    if device != "cpu" or backend not in ("auto", "cpu"):
        return "another device or backend was asked for"
    return unsupported(config, dtype)
