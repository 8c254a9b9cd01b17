"""The benchmark of search factors on a small data set: a row a factor and stride, of the frames that were asked for."""

from __future__ import annotations

import json

from benchmarks import search_factor
from engine.cli.exits import run_function
from tests.engine.evaluation import trees


def test_a_row_for_each_factor_and_stride(tmp_path, tiny_weights, monkeypatch):
    import pytest

    trees.otb(tmp_path / "data", "Square", 6)
    seen = []
    measure = search_factor.overlap
    monkeypatch.setattr(search_factor, "overlap", lambda *arguments: seen.append(measure(*arguments)) or seen[-1])
    arguments = [
        str(tmp_path / "data"),
        "--model",
        str(tiny_weights),
        "--factors",
        "4,6",
        "--strides",
        "1,2",
        "--json",
        str(tmp_path / "a.json"),
    ]
    with pytest.raises(SystemExit) as ended:
        run_function(search_factor.main, arguments)
    assert ended.value.code == 0
    rows = [json.loads(line) for line in (tmp_path / "a.json").read_text().splitlines()]
    assert [(row["search_factor"], row["stride"]) for row in rows] == [(4, 1), (4, 2), (6, 1), (6, 2)]
    assert [row["mean_iou"] for row in rows] == [round(round(100 * value, 1), 1) for value in seen]
