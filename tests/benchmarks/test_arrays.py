"""Golden files as plain arrays: what the C++ tests read is the file's content, and the inputs that belong to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import esat_kernels
from conformance import arrays, golden
from engine.cli.exits import run_function

GOLDEN = Path(__file__).parent.parent / "golden"


def written(tmp_path: Path, *files: Path) -> dict[str, dict[str, np.ndarray]]:
    """Name of the file -> its arrays."""
    with pytest.raises(SystemExit) as caught:
        run_function(arrays.main, [*map(str, files), str(tmp_path / "out")])
    assert not caught.value.code
    return {folder.name: {path.stem: np.load(path) for path in folder.iterdir()} for folder in (tmp_path / "out").iterdir()}


def test_attention_inputs_give_the_outputs(tmp_path):
    found = written(tmp_path, GOLDEN / "attention_paper_d64.npz")["attention_paper_d64"]
    alpha, beta, delta, scale, num_template, template_token = found["numbers"]
    q, k, v = (torch.from_numpy(found[name]).double() for name in ("q", "k", "v"))
    forces = {"alpha": alpha, "beta": beta, "delta": delta, "scale": scale}
    out, scores = esat_kernels.fda_attention_with_scores(q, k, v, int(num_template), int(template_token), **forces, backend="reference")
    assert np.allclose(out, found["out"], rtol=0, atol=1e-10)
    assert np.allclose(scores, found["scores"], rtol=0, atol=1e-6)
    assert {name: array.dtype for name, array in found.items() if name in ("dout", "dq", "dk", "dv")} == {
        "dout": np.float32, "dq": np.float64, "dk": np.float64, "dv": np.float64,
    }  # fmt: skip


def test_rows_of_an_elimination_s_layer_lead_to_the_removed_tokens(tmp_path):
    path = GOLDEN / "small_fda.npz"
    found = written(tmp_path, path)["small_fda"]
    content = golden.load(path)
    alpha, beta, delta, scale, num_template, template_token = found["numbers"]
    q, k, v = torch.from_numpy(found["qkv_0"]).permute(1, 2, 0, 3)[:, None]  # [B, H, N, D] each
    forces = {"alpha": alpha, "beta": beta, "delta": delta, "scale": scale}
    _, scores = esat_kernels.fda_attention_with_scores(q, k, v, int(num_template), int(template_token), **forces, backend="reference")
    lowest = scores[0].argsort()[: content["removed_0"].shape[1]]
    assert set(lowest.tolist()) == set(content["removed_0"][0].tolist()) == set(found["removed_0"][0].tolist())
    assert [found[f"qkv_{stage}"].shape for stage in range(3)] == [(320, 3, 3, 32), (244, 3, 3, 32), (190, 3, 3, 32)]


def test_regions_of_crops_lie_in_the_frame_s_pixels(tmp_path, shared):
    found = written(tmp_path, shared / "oracle" / "crops_tlp_CarChase2_frame0.npz")["crops_tlp_CarChase2_frame0"]
    assert found["frame"].dtype == found["crops"].dtype == np.uint8
    assert found["frame"].shape[2] == 3
    assert found["regions"].shape == (7, 3)
    factors = golden.load(shared / "oracle" / "crops_tlp_CarChase2_frame0.npz")["resize_factors"]
    assert np.allclose(found["crops"].shape[1] / found["regions"][:, 2], factors)


def test_other_kinds_are_named_and_left_out(tmp_path, capsys):
    assert list(written(tmp_path, GOLDEN / "metrics.json", GOLDEN / "attention_paper_d64.npz")) == ["attention_paper_d64"]
    assert "metrics.json: left out, of kind metrics" in capsys.readouterr().out
