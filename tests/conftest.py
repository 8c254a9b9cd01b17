"""What all tests share."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

# Before PyTorch is imported: of several processes (pytest-xdist) each takes its share of the cores, and none spins while it waits.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch
from hypothesis import settings

from engine import ModelConfig, build_model
from engine.weights import save_weights
from tests.require import require

# A busy machine is no failure.
settings.register_profile("esat", deadline=None)
settings.load_profile("esat")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with golden files and real sequences: ESAT_SHARED, or `../shared` beside the repository."""
    folder = Path(os.environ.get("ESAT_SHARED", REPOSITORY.parent / "shared"))
    require("shared", None if (folder / "oracle").is_dir() else f"no golden files and data at {folder}")
    return folder


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network of 12 layers with fixed random parameters, saved as a weights file: quick, and follows nothing in particular."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    config = ModelConfig(
        name="tiny", dim=96, heads=3, head_channels=32, template_size=128, search_size=256, search_factor=4.0, token_types=True
    )
    generator = torch.Generator().manual_seed(0)
    state_dict = build_model(config).state_dict()
    for name, value in state_dict.items():
        if value.dim() > 1 or "token_type" in name:
            value.copy_(torch.randn(value.shape, generator=generator) * (1.0 if "conv5" in name else value[0].numel() ** -0.5))
    save_weights(path, state_dict, config, {"source": "random parameters of the test suite"})
    return path


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder named `locked`, in the current one, that nobody may enter, not even root."""
    monkeypatch.chdir(tmp_path)
    folder = Path("locked")
    folder.mkdir(mode=0)
    with mortal():
        yield folder


@contextlib.contextmanager
def mortal() -> Iterator[None]:
    """This thread without the capabilities by which root passes over permissions (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH; Linux, capset(2)).

    As another user it could no longer import from a Python that is root's alone.
    """
    if os.geteuid():
        yield
        return
    libc, header, held = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, held) == 0
    less = (ctypes.c_uint32 * 6)(held[0] & ~0b110, *held[1:])  # effective, permitted and inheritable ones, the first 32 and the rest
    assert libc.capset(header, less) == 0
    try:
        yield
    finally:
        assert libc.capset(header, held) == 0
