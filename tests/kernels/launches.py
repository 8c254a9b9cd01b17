"""Lets the Triton backends make their calls without a GPU: each launch is specialised for its real arguments and compiled, and nothing runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest


class Launch(NamedTuple):
    """One launch: the kernel's name, its grid, and what Triton compiled for exactly these arguments."""

    name: str
    grid: tuple[int, ...]
    compiled: Any


class _Driver:
    """As much of Triton's driver as a compilation asks for."""

    def __init__(self, architecture: int):
        self._architecture = architecture

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self._architecture, 32)

    def get_current_device(self) -> int:
        return self._architecture  # compiled kernels are kept by device

    def get_current_stream(self, device: int) -> int:
        return 0


@contextlib.contextmanager
def recorded(architecture: int) -> Iterator[list[Launch]]:
    """Launches of tensors on the CPU are compiled for this architecture and listed; their results are whatever the memory holds."""
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    launches: list[Launch] = []
    run = JITFunction.run

    def compile_only(self: Any, *arguments: Any, grid: tuple[int, ...], warmup: bool, **options: Any) -> Any:
        compiled = run(self, *arguments, grid=grid, warmup=True, **options)
        launches.append(Launch(self.fn.__name__, grid, compiled))
        return compiled

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "_active", _Driver(architecture))
        patch.setattr(JITFunction, "run", compile_only)
        yield launches
