"""The checks of the Hopper kernel's part, with the reference in the kernel's place."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.gpu import hopper
from benchmarks.gpu.parts import STAGES
from esat_kernels.attention import reference


def right(q, k, v, forces, wanted):
    """The formula in float32, rounded."""
    wide = [t.float() for t in (q, k, v)]
    out = reference.attention(*wide, forces)[0].to(q.dtype)
    return out, reference.elimination_scores(*wide[:2], forces, wanted).float()


@pytest.mark.parametrize("case", [("near", 129, 1), ("near", 1, 1), ("large", 97, 3)])
def test_a_right_kernel_passes(case):
    found = hopper.check(right, *case, "cpu")
    assert found["ok"], found


def test_wrong_outputs_scores_and_changing_bits_are_found():
    def no_attraction(q, k, v, forces, wanted):
        return right(q, k, v, forces._replace(alpha=0.0), wanted)

    def other_scores(q, k, v, forces, wanted):
        out, scores = right(q, k, v, forces, wanted)
        return out, scores * 1.01

    calls = []

    def changing(q, k, v, forces, wanted):
        calls.append(1)
        out, scores = right(q, k, v, forces, wanted)
        return out, scores + 1e-9 * len(calls)

    assert hopper.check(no_attraction, "near", 129, 1, "cpu")["excess"] > 10
    wrong = hopper.check(other_scores, "near", 129, 1, "cpu")
    assert wrong["excess"] <= 1
    assert not wrong["ok"]
    assert not hopper.check(changing, "near", 129, 1, "cpu")["same_bits"]


def _column_pairs_swapped(q, k, v, forces, wanted):
    return right(q, k, v.unflatten(3, (-1, 2)).flip(4).flatten(3), forces, wanted)


def _a_key_left_out(q, k, v, forces, wanted):
    return right(q, k[:, :, :-1], v[:, :, :-1], forces, wanted)[0], None


def _eights_of_the_keys_swapped(q, k, v, forces, wanted):
    return right(q, k.unflatten(2, (-1, 2, 4)).flip(3).flatten(2, 4), v, forces, wanted)


def test_each_probe_finds_what_it_is_for():
    assert all(found["ok"] for found in hopper.probe(right, "cpu"))

    def wrong(forward):
        return {found["probe"] for found in hopper.probe(forward, "cpu") if not found["ok"]}

    assert wrong(_column_pairs_swapped) == {"columns"}
    assert wrong(_a_key_left_out) == {"keys", "queries", "queries, exactly"}
    assert wrong(_eights_of_the_keys_swapped) == {"queries", "queries, exactly"}
    found = hopper.probe(_column_pairs_swapped, "cpu")[0]
    assert found["first_wrong"] == [0, 0, 0, 0]
    assert found["by_column"][:4] == [2, 1, 4, 3]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_elsewhere_it_says_why_and_is_no_failure(tmp_path):
    assert hopper.main(tmp_path / "gpu_hopper.json") == 0
    found = json.loads((tmp_path / "gpu_hopper.json").read_text())
    assert found["ok"]
    assert found["why"]


def test_it_is_a_process_of_its_own_behind_the_kernels_that_run():
    names = [part.name for part in STAGES["a"]]
    assert names.index("hopper") > names.index("attention")
