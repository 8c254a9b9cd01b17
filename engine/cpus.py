"""How many processors this process may use: those that it is bound to, and a container's share of their time."""

from __future__ import annotations

import math
import os
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def cpu_count() -> int:
    """Processors that the process may run on, no more than its quota has room for, and at least 1."""
    quota = cpu_quota()
    return bound_cpus() if quota is None else min(bound_cpus(), max(1, math.ceil(quota)))


def bound_cpus() -> int:
    """Processors that the process is bound to (taskset, cpusets); all where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(groups: Path = _GROUPS, membership: Path = _MEMBERSHIP) -> float | None:
    """Processors' worth of time that the control groups around this process allow (`docker run --cpus 1.5`), None: no limit.

    Linux only; version 2 of control groups (cpu.max), and version 1 (cpu.cfs_quota_us). The narrowest limit on the way up counts.
    """
    quotas = []
    for line in _read(membership).splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = groups / controllers if controllers and (groups / controllers).is_dir() else groups / "cpu" if controllers else groups
        group = root / path.lstrip("/")
        while True:
            quota, period = [*_read(group / "cpu.max").split(), "", ""][:2] if not controllers else _version_1(group)
            if quota.isdecimal() and period.isdecimal() and int(period):
                quotas.append(int(quota) / int(period))
            if group == root:
                break
            group = group.parent
    return min(quotas, default=None)


def _version_1(group: Path) -> tuple[str, str]:
    return _read(group / "cpu.cfs_quota_us").strip(), _read(group / "cpu.cfs_period_us").strip()  # -1: no limit


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
