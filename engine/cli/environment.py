"""Checks of the environment for `esat doctor`: each says what it found, and what to do where that is not good."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np

from engine.errors import EsatError


@dataclasses.dataclass(frozen=True)
class Finding:
    """One check's outcome. `warn`: works, but not at its best. `fail`: a command of ours will not work."""

    check: str
    level: Literal["ok", "warn", "fail"]
    message: str


def check_environment() -> list[Finding]:
    """Run every check; none raises."""
    findings = []
    for check in (_python, _pytorch, _library, _openmp, _processors, _video, _opencv, _writable, _weights):
        try:
            findings.append(check())
        except Exception as error:  # noqa: BLE001  a check that breaks is a finding, and the others still run
            findings.append(Finding(check.__name__.strip("_"), "fail", f"{type(error).__name__}: {error}"))
    return findings


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11)
    return Finding("python", "ok" if good else "fail", version if good else f"{version}: 3.11 or newer is needed")


def _pytorch() -> Finding:
    import torch

    text = f"{torch.__version__}, {torch.get_num_threads()} threads"
    return Finding("pytorch", "ok", text + (f", CUDA {torch.version.cuda}" if torch.cuda.is_available() else ", no CUDA device"))


def _library() -> Finding:
    import esat_kernels

    reason = esat_kernels.backends()["cpu"]
    if reason is not None:
        return Finding("native library", "warn", f"{reason}; the slower PyTorch reference is used")
    return Finding("native library", "ok", f"loaded, instruction set {esat_kernels.cpu_isa()}")


def _openmp() -> Finding:
    import esat_kernels  # noqa: F401  loads PyTorch and the native library, whose runtimes are counted
    from engine.cli.machine import openmp_runtimes

    found = sorted(openmp_runtimes())
    names = ", ".join(Path(path).name for path in found)
    if len(found) > 1:
        return Finding("openmp", "warn", f"{len(found)} runtimes are loaded and compete for the cores: {names}")
    return Finding("openmp", "ok", f"one pool of threads: {names}" if found else "none loaded")


def _processors() -> Finding:
    import torch

    from engine.cpus import bound_cpus, cpu_count, cpu_quota

    quota, threads = cpu_quota(), torch.get_num_threads()
    text = f"{bound_cpus()} to run on" + ("" if quota is None else f", the container's quota allows {quota:g} of them")
    if threads > cpu_count():
        advice = f"set OMP_NUM_THREADS={cpu_count()}, since threads that wait for their turn hold up the others"
        return Finding("processors", "warn", f"{text}, but {threads} threads compute: {advice}")
    return Finding("processors", "ok", text)


def _video() -> Finding:
    """A real encode and decode of 8 frames."""
    import av

    from engine.video.files import VideoFile
    from engine.video.frames import Frame
    from engine.video.mp4 import Mp4, h264_encoder
    from engine.video.sinks import Record

    encoder = h264_encoder()
    image = np.zeros((48, 64, 3), np.uint8)
    keep: Callable[[np.ndarray, Sequence[Record]], np.ndarray] = lambda picture, _: picture  # noqa: E731
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "check.mp4"
        sink = Mp4(path, 64, 48, Fraction(25), Fraction(1, 12_800), keep)
        for index in range(8):
            sink.write(Frame(index, Fraction(index, 25), image), [Record(index, (0, 0, 1, 1), 1.0, "TRACKING", 0.0)])
        sink.finish({})
        sink.publish()
        with VideoFile(path) as video:
            decoded = sum(1 for _ in video)
    if decoded != 8:
        return Finding("video", "fail", f"PyAV {av.__version__} with {encoder}: 8 frames written, {decoded} read")
    return Finding("video", "ok", f"PyAV {av.__version__}, encoder {encoder}, 8 frames written and read")


def _opencv() -> Finding:
    import cv2

    from engine.cli.machine import package_version

    variants = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
    installed = [name for name in variants if package_version(name)]
    if len(installed) > 1:
        return Finding("opencv", "warn", f"{' and '.join(installed)} overwrite each other's files: uninstall all, install one")
    return Finding("opencv", "ok", f"{cv2.__version__} ({installed[0] if installed else 'not from PyPI'})")


def _writable() -> Finding:
    from engine.files import PendingFile

    try:
        PendingFile(Path.cwd() / "esat-doctor.tmp").discard()
    except EsatError as error:
        return Finding("current folder", "warn", str(error))
    return Finding("current folder", "ok", f"{Path.cwd()} can be written")


def _weights() -> Finding:
    from engine.weights.shipped import DEFAULT_MODEL, find_weights, shipped_path

    path = shipped_path(DEFAULT_MODEL)
    if not path.is_file():
        return Finding("weights", "warn", f"{path} is missing: pass --model FILE to every command")
    weights = find_weights(DEFAULT_MODEL)
    return Finding("weights", "ok", f"{DEFAULT_MODEL}, {len(weights.state_dict)} tensors, {path.stat().st_size / 2**20:.1f} MiB")
