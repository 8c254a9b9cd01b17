"""Processes beside this one: how many threads they compute with, and what a fork needs.

GNU's OpenMP runtime does not survive a fork: a parallel region in the child waits for threads that only the parent has. One thread needs no
others, so a child computes with one; it may ask for more with `torch.set_num_threads` only if the parent had never computed.
"""

from __future__ import annotations

import functools
import os

import cv2
import torch

from engine.cpus import cpu_count


def threads_for_each(workers: int) -> int:
    """Threads for each of so many processes: its part of the processors that this one may use, and no more than OMP_NUM_THREADS or
    `torch.set_num_threads` allow this one."""
    return max(1, min(cpu_count() // workers, torch.get_num_threads()))


def use_threads(threads: int = 1) -> None:
    """PyTorch and the kernels compute with so many threads in this process, OpenCV with one: workers share the machine between them."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(1)


@functools.cache
def prepare() -> None:
    """Let the children of this process compute with one thread. Once a process; nothing where there is no fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))
