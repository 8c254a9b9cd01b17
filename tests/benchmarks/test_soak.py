"""Long runs: the real thing in short, and growth is told."""

import json
import mmap
import os

import pytest

from benchmarks import soak


@pytest.mark.parametrize("scope", soak.SCOPES)
def test_a_short_run(scope, tmp_path):
    row = soak.measure(scope, 200)
    assert row["frames"] == 200
    assert len(row["resident_mb"]) == 100
    assert row["handles"][1] - row["handles"][0] <= 1  # the clip is closed when its last frame has been read
    json.dumps(row)


def test_a_run_that_grows_is_told():
    watch, kept = soak.Watch(100), []
    for _ in range(100):
        kept.append(mmap.mmap(-1, 200_000))  # new pages, whatever the heap has left over
        kept[-1].write(b"1" * 200_000)
        watch.frame()
    row = watch.row()
    assert row["growth_mb"] > 10
    assert not row["ok"]


def test_a_handle_that_stays_open_is_told():
    watch, kept = soak.Watch(100), []
    for index in range(100):
        if index == 50:
            kept.append(open(os.devnull))  # noqa: SIM115  the leak is the point
        watch.frame()
    assert not watch.row()["ok"]
    kept[0].close()


def test_a_run_that_stays_flat_is_ok():
    watch = soak.Watch(100)
    for _ in range(100):
        watch.frame()
    assert watch.row()["ok"]
