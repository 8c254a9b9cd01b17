"""Several commands at once, each with its output, and none that outlives the one that started it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

PATIENCE_S = 5.0  # for a killed process: one that a kernel on the device holds is let go only when the driver has taken that away


class Ended(NamedTuple):
    """How a command ended: its exit code, or None if it was stopped."""

    code: int | None
    output: str
    seconds: float


def stop(process: subprocess.Popen[Any], grace_s: float = 0.0) -> None:
    """End a process that leads a session, with all that it has started: asked first if it gets `grace_s` for it.

    One that does not end although it is killed is left alone after `PATIENCE_S`.
    """
    if grace_s > 0:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    with contextlib.suppress(ProcessLookupError):  # it has ended, and so have its children
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(PATIENCE_S)


def run_together(commands: Mapping[str, Sequence[str]], seconds: float, environment: Mapping[str, str] | None = None) -> dict[str, Ended]:
    """Run all commands at once, for at most `seconds`."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that a part which is stopped stops its children
    started = time.monotonic()
    found: dict[str, Ended] = {}
    outputs = {name: tempfile.TemporaryFile() for name in commands}  # noqa: SIM115
    processes = {
        name: subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=outputs[name], stderr=subprocess.STDOUT, start_new_session=True
        )
        for name, command in commands.items()
    }
    try:
        while len(found) < len(processes) and time.monotonic() - started < seconds:
            for name, process in processes.items():
                if name not in found and process.poll() is not None:
                    found[name] = Ended(process.returncode, "", time.monotonic() - started)
            time.sleep(0.05)
    finally:
        for process in processes.values():
            stop(process)
        signal.signal(signal.SIGTERM, before)
    for name, output in outputs.items():
        output.seek(0)
        ended = found.get(name, Ended(None, "", time.monotonic() - started))
        found[name] = ended._replace(output=output.read().decode(errors="replace"))
        output.close()
    return found
