"""A real Ray cluster on this machine: same figures, a lost worker's sequence is tried again."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest

from engine.datasets.layouts import open_dataset
from engine.datasets.sequences import Sequence
from engine.errors import DeviceError
from engine.evaluation import pool
from engine.evaluation.tracking import Settings
from tests.conftest import REPOSITORY
from tests.engine.evaluation import trees
from tests.engine.evaluation.test_pool import Deadly
from tests.require import require


@pytest.fixture(scope="module")
def cluster():
    """The address of a cluster with two workers."""
    try:
        from ray.cluster_utils import Cluster
    except ImportError as error:
        require("ray", str(error))
    os.environ["PYTHONPATH"] = f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"  # the nodes import this tree
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    running = Cluster()
    for _ in range(2):
        running.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    yield running.address
    running.shutdown()


def test_the_cluster_gives_the_same_boxes_and_survives_a_dead_worker(tmp_path, cluster):
    for number in range(4):
        trees.otb(tmp_path / "data", f"Square{number}", 4)
    sequences = list(open_dataset(tmp_path / "data").sequences)
    settings = Settings(str(trees.tiny_weights(tmp_path / "tiny.safetensors")))
    expected, _ = pool.run(sequences, settings, tmp_path / "alone")
    for index, until in ((1, None), (2, tmp_path / "died once")):
        fields = {field.name: getattr(sequences[index], field.name) for field in dataclasses.fields(Sequence)}
        sequences[index] = Deadly(**fields, until=until)
    outcomes, failures = pool.run(sequences, settings, tmp_path / "kept", ray=cluster)
    assert list(outcomes) == ["Square0", "Square2", "Square3"]
    for name, outcome in outcomes.items():
        assert np.allclose(outcome.boxes, expected[name].boxes, atol=1e-3)
        assert (tmp_path / "kept" / f"{name}.json").is_file()
    assert [(failure.name, "died 3 times" in failure.reason) for failure in failures] == [("Square1", True)]


def test_a_cluster_that_is_not_there(tmp_path):
    require("ray", None if _has_ray() else "package ray is not installed")
    trees.otb(tmp_path / "data")
    settings = Settings(str(trees.tiny_weights(tmp_path / "tiny.safetensors")))
    with pytest.raises(DeviceError, match="cannot reach the Ray cluster"):
        pool.run(list(open_dataset(tmp_path / "data").sequences), settings, tmp_path / "kept", ray="127.0.0.1:1")


def _has_ray() -> bool:
    try:
        import ray  # noqa: F401
    except ImportError:
        return False
    return True
