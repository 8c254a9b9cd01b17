"""The CUDA attention backend where there is no GPU: what it says, and what its launcher refuses before it touches a device."""

from __future__ import annotations

import ctypes
import re
from typing import Any

import pytest
import torch

import esat_kernels
from esat_kernels import _cuda
from esat_kernels.attention import cuda
from tests.conftest import REPOSITORY
from tests.require import require


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_the_backend_says_why():
    x = torch.zeros(1, 1, 8, 64, dtype=torch.bfloat16)
    reason = cuda.unavailable()
    assert reason is not None
    assert reason == "no CUDA device" or reason.startswith("not built: ")
    with pytest.raises(NotImplementedError, match=r"attention: backend 'cuda' cannot run: (no CUDA device|not built: )"):
        esat_kernels.fda_attention(x, x, x, backend="cuda")


GOOD: dict[str, Any] = {
    "shape": (1, 2, 40, 64),
    "constants": (0.1, 0.1, 0.125, 0.125),
    "strides": (5120, 64, 128),
    "address": 4096,
    "norms": 4096,
    "logits": 0,
    "scores": 0,
    "num_template": 8,
    "template_token": -1,
    "rows": 0,
    "kernel": "sm_80",
}


def launch(call: dict[str, Any]) -> None:
    reason = _cuda.unavailable()
    require("nvcc", reason)
    *sizes, head_dim = call["shape"]
    names = ("num_template", "template_token", "scores")
    made = cuda.Forward(
        **dict(zip(("batch", "heads", "tokens"), sizes, strict=True)),
        **dict(zip(("alpha", "beta", "delta", "scale"), call["constants"], strict=True)),
        **{name: call[name] for name in names},
        row_logits=call["logits"],
        key_norms=call["norms"],
    )
    for name in ("query", "key", "value", "out"):
        setattr(made, name, call["address"])
        setattr(made, f"{name}_strides", cuda.Strides(*call["strides"]))
    cuda.launch(made, head_dim, call["rows"], 0, call["kernel"])


def test_the_structures_are_those_of_the_header():
    """Names, types and order: a field that differs would be read at the wrong place."""
    header = (REPOSITORY / "csrc" / "attention" / "attention_cuda.h").read_text()
    types = {"std::int64_t": ctypes.c_int64, "int": ctypes.c_int, "float": ctypes.c_float, "Strides": cuda.Strides}
    for structure in (cuda.Strides, cuda.Forward):
        body = re.search(rf"struct {structure.__name__} {{(.*?)}};", header, re.DOTALL)
        assert body is not None
        fields = re.findall(r"^\s*(?:const )?([\w:]+)(\*?) (\w+);", body[1], re.MULTILINE)
        assert len(fields) == len(re.findall(r"^[^/\n]*;", body[1], re.MULTILINE))
        assert structure._fields_ == [(name, ctypes.c_void_p if pointer else types[kind]) for kind, pointer, name in fields]


def test_a_library_that_does_not_load_says_so(tmp_path, monkeypatch):
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    for path, expected in ((tmp_path / "none.so", "not built: no none.so in"), (broken, "not built: broken.so does not load: ")):
        monkeypatch.setattr(_cuda, "FILE", path)
        library, reason = _cuda._load()
        assert library is None
        assert (reason or "").startswith(expected)


def test_a_library_for_other_calls_is_refused(monkeypatch):

    class Library:
        def esat_fda_forward_size(self):
            return ctypes.sizeof(cuda.Forward) + 8

    monkeypatch.setattr(_cuda, "unavailable", lambda: None)
    monkeypatch.setattr(_cuda, "library", Library)
    assert re.match(r"not built: libesat_cuda\.so takes calls of \d+ bytes", cuda._open()[1] or "")
    monkeypatch.setattr(Library, "esat_fda_forward_size", lambda _: ctypes.sizeof(cuda.Forward))  # a library from before a kernel was added
    assert re.match(r"not built: libesat_cuda\.so is of other sources .*esat_fda_forward", cuda._open()[1] or "")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"shape": (1, 2, 40, 65)}, ValueError, "the head dimension must be 32 or 64"),
        ({"shape": (1, 2, 40, 128)}, ValueError, "the head dimension must be 32 or 64"),
        ({"shape": (0, 2, 40, 64)}, ValueError, "batch, heads and tokens must be positive"),
        ({"shape": (40000, 2, 40, 64)}, ValueError, "batch times heads must be at most 65535"),
        ({"shape": (1, 2, 2049, 64)}, ValueError, "at most 2048 tokens"),
        ({"address": 0}, ValueError, "addresses and strides must be multiples of 16 bytes"),
        ({"address": 4104}, ValueError, "addresses and strides must be multiples of 16 bytes"),
        ({"strides": (5120, 64, 65)}, ValueError, "addresses and strides must be multiples of 16 bytes"),
        ({"strides": (5120, 64, 1 << 30)}, ValueError, "a token's stride must be less than 2^30 elements"),
        ({"norms": 0}, ValueError, "key_norms may be null only if alpha and beta are 0"),
        ({"shape": (1, 1025, 40, 64), "logits": 4096, "scores": 4096}, ValueError, "scores are made for at most 1024 heads"),
        ({"logits": 4096}, ValueError, "row_logits and scores go together"),
        ({"logits": 4096, "scores": 4096, "template_token": 8}, ValueError, "the template token must be one of the template's"),
        ({"logits": 4096, "scores": 4096, "template_token": 0, "num_template": 40}, ValueError, "there must be search tokens"),
        ({"constants": (-0.1, 0.1, 0.1, 0.1)}, ValueError, "alpha, beta and delta must be zero or positive"),
        ({"constants": (0.1, 0.1, float("nan"), 0.1)}, ValueError, "alpha, beta and delta must be zero or positive"),
        ({"constants": (0.1, 0.1, 0.1, 0.0)}, ValueError, "scale must be positive"),
        ({"rows": 40}, ValueError, "rows must be 32, 48, 64 or 80"),
        ({"rows": 96}, ValueError, "rows must be 32, 48, 64 or 80"),
        ({"kernel": "sm_90a", "rows": 80}, ValueError, "rows must be 128 or 192 on sm_90a"),
        ({"kernel": "sm_90a", "shape": (1, 2, 40, 32)}, ValueError, "the head dimension must be 64 on sm_90a"),
        ({"kernel": "sm_90a", "address": 4104}, ValueError, "addresses and strides must be multiples of 16 bytes"),
        ({"kernel": "sm_90a", "strides": (5120, 64, 0)}, ValueError, "strides of keys and values must be positive"),
        ({"kernel": "sm_90a", "strides": (5120, -64, 128)}, ValueError, "strides of keys and values must be positive"),
    ],
)
def test_the_launcher_refuses(change, error, message):
    with pytest.raises(error) as caught:
        launch({**GOOD, **change})
    assert message in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device, and the addresses are not real")
@pytest.mark.parametrize(
    ("change", "step"),
    [({}, "device"), ({"rows": 32}, "74240 bytes of shared memory for head dimension 64"), ({"kernel": "sm_90a", "rows": 128}, "device")],
)
def test_an_error_of_cuda_is_raised_every_time(change, step):
    for _ in range(2):
        with pytest.raises(RuntimeError, match=f"attention: {step}: "):
            launch({**GOOD, **change})
