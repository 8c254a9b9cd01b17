"""Tracks the sequences of a data set on a Ray cluster, one sequence a task and a core. A lost worker's sequence is tried again.

Every node needs this package, the data set and the weights file under the same paths. Results come back to the caller and are kept there.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.datasets.sequences import Sequence
from engine.errors import ConfigError, DeviceError
from engine.evaluation.tracking import Outcome, Settings, fingerprint, make_tracker, save, try_track

_CONNECT_SECONDS = 5.0
RETRIES = 2  # of a sequence whose worker died


def track_on_ray(
    todo: list[Sequence], settings: Settings, folder: Path, key: str, address: str, report: Callable[[int], None]
) -> Iterator[tuple[str, Outcome | str]]:
    """Yield (name, result or reason) as tasks end, kept in `folder`. report(frames tracked so far).

    address: "local" for a cluster on this machine's cores, "auto" for the one that it belongs to, else a cluster's address.
    With a CUDA device in the settings every task takes one GPU. ConfigError without Ray, DeviceError if the cluster cannot be reached.
    """
    frames = 0
    by_name = {sequence.name: sequence for sequence in todo}
    jobs = {name: (sequence, settings) for name, sequence in by_name.items()}
    for ended in run_on_ray(_track, jobs, address, settings.device.startswith("cuda")):
        if ended is None:
            report(frames)
            continue
        name, result = ended
        if isinstance(result, Outcome):
            frames += len(result.boxes)
            save(result, folder, key, fingerprint(by_name[name]))
        report(frames)
        yield name, result


def run_on_ray(
    function: Callable[..., Any], jobs: Mapping[str, tuple[Any, ...]], address: str, gpu: bool = False
) -> Iterator[tuple[str, Any] | None]:
    """Yield (name, what the function returned, or why it returned nothing) as jobs end; None about once a second, and after each.

    jobs: arguments by name; each runs on one core, and with `gpu` takes one GPU. A job whose worker died is tried again. What the function
    raises is raised. address and errors: see `track_on_ray`.
    """
    ray = _import_ray()
    _check_reachable(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise DeviceError(f"cannot reach the Ray cluster {address!r}: {error}") from error
    try:
        task = ray.remote(function).options(num_cpus=1, num_gpus=int(gpu), max_retries=RETRIES, retry_exceptions=False)
        waiting = {task.remote(*arguments): name for name, arguments in jobs.items()}
        while waiting:
            done, _ = ray.wait(list(waiting), num_returns=1, timeout=1.0)
            for reference in done:
                name = waiting.pop(reference)
                try:
                    yield name, ray.get(reference)
                except ray.exceptions.WorkerCrashedError:
                    yield name, f"its worker died {1 + RETRIES} times (out of memory?)"
                except ray.exceptions.RayTaskError as error:
                    raise error.as_instanceof_cause() from error
            yield None
    finally:
        ray.shutdown()


class _Worker:
    """What a task leaves for the next one in its process: the model is loaded once."""

    tracker: Any = None
    settings: Settings


def _track(sequence: Sequence, settings: Settings) -> Outcome | str:
    from engine.workers import use_threads

    use_threads()
    if _Worker.tracker is None or _Worker.settings != settings:
        _Worker.settings, _Worker.tracker = settings, make_tracker(settings)
    return try_track(sequence, _Worker.tracker)


def _check_reachable(address: str) -> None:
    """DeviceError if nothing listens at HOST:PORT: Ray itself would go on trying for minutes."""
    host, colon, port = address.rpartition("//")[2].partition(":")
    if not (colon and port.isdecimal()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise DeviceError(f"cannot reach the Ray cluster {address!r}: {error}") from error


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--ray needs the package ray: pip install 'esat-engine[ray]'") from error
    return ray
