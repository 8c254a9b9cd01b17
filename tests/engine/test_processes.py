"""Threads, forked and spawned processes, full disks: the tracker works in all of them, and nothing half written stays."""

import concurrent.futures
import os
import subprocess
import sys

import numpy as np
import pytest

from engine import Tracker
from tests.conftest import REPOSITORY

BOX = (50.0, 40.0, 30.0, 24.0)


def _frames(seed):
    return np.random.default_rng(seed).integers(0, 256, (6, 120, 160, 3), np.uint8)


def _run(tracker, seed):
    tracker.init(_frames(seed)[0], BOX)
    return [tracker.update(frame).box for frame in _frames(seed)[1:]]


@pytest.mark.parametrize("shared", [False, True])
def test_two_threads_with_two_trackers(tiny_weights, shared):
    first = Tracker(tiny_weights, device="cpu", dtype="fp32")
    second = Tracker(first.runner if shared else tiny_weights, device="cpu", dtype="fp32")
    expected = [_run(first, 0), _run(second, 1)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            both = [pool.submit(_run, first, 0), pool.submit(_run, second, 1)]
            for future, boxes in zip(both, expected, strict=True):
                np.testing.assert_allclose(future.result(timeout=120), boxes, atol=1e-3)


PROCESS = """
import multiprocessing, sys
from tests.engine.test_processes import Tracker, _run
def child(tracker, queue):
    tracker = Tracker(sys.argv[1], device="cpu", dtype="fp32") if tracker is None else tracker
    queue.put(_run(tracker, 0))
if __name__ == "__main__":
    tracker = Tracker(sys.argv[1], device="cpu", dtype="fp32")
    expected = _run(tracker, 0)
    context = multiprocessing.get_context(sys.argv[2])
    queue = context.Queue()
    process = context.Process(target=child, args=(tracker if sys.argv[2] == "fork" else None, queue), daemon=True)
    process.start()
    found = queue.get(timeout=60)
    process.join(60)
    assert process.exitcode == 0
    assert max(abs(a - b) for x, y in zip(found, expected, strict=True) for a, b in zip(x, y, strict=True)) < 1e-3, (found, expected)
    assert _run(tracker, 0) == expected
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_track_after_this_one_has(tiny_weights, tmp_path, method):
    """The forked child uses its parent's tracker. Without care it would wait for OpenMP threads that it does not have."""
    program = tmp_path / "program.py"
    program.write_text(PROCESS)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "2"}
    command = [sys.executable, str(program), str(tiny_weights), method]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from engine.errors import EsatError
from engine.evaluation.tracking import Outcome, save
from engine.weights import load_weights, save_weights
weights = load_weights(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    if sys.argv[1] == "weights":
        save_weights("out/a.safetensors", weights.state_dict, weights.config)
    else:
        boxes = np.random.default_rng(0).random((500, 4))  # whose text fits, but not the JSON
        save(Outcome("a", boxes, [0.5] * 500, [1.0] * 500, "tiny", "cpu", "fp32", "default"), Path("out"), "key", "mark")
except EsatError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.parametrize("what", ["weights", "results"])
def test_a_full_disk_leaves_nothing(tiny_weights, tmp_path, what):
    """A limit on the size of files stands for the full disk: writes beyond it fail in the same place."""
    (tmp_path / "out").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", FULL, what, str(tiny_weights)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "cannot write" in done.stdout
    assert list((tmp_path / "out").iterdir()) == []


def test_a_standard_output_that_is_full(tiny_weights, tmp_path):
    from tests.engine.video.clips import pictures, write_clip

    clip = write_clip(tmp_path / "a.mp4", pictures(4))
    command = [sys.executable, "-m", "engine", "track", str(clip), "--box", "10,20,24,24", "--model", str(tiny_weights), "--jsonl", "-"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY)
    assert done.returncode == 2, done.stderr
    assert "cannot write to standard output: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
