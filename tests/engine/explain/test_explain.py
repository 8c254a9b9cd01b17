"""Pictures of what the network saw hold what the network computed."""

import cv2
import numpy as np
import pytest
import torch

from engine.errors import BoxError, SourceError
from engine.explain import capture
from engine.explain.walk import explain
from engine.runners.preprocess import normalise
from engine.video import open_source
from engine.weights import load_weights


@pytest.fixture(scope="module")
def weights(tiny_weights):
    return load_weights(tiny_weights)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(4):
        cv2.imwrite(str(tmp_path / f"{index}.png"), rng.integers(0, 256, (90, 120, 3), np.uint8))
    return tmp_path


def _crops():
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (128, 128, 3), np.uint8), rng.integers(0, 256, (256, 256, 3), np.uint8)


def test_insight_shows_the_networks_own_numbers(weights):
    network, (template, search) = weights.model(), _crops()
    insight = capture.see(network, template, search)
    with torch.inference_mode():
        prediction = network(*(normalise([crop], False, torch.device("cpu")) for crop in (template, search)))
    assert [int(mask.sum()) for mask in insight.kept] == [180, 126, 89]
    assert set(np.flatnonzero(insight.kept[-1])) == set(prediction.survivors[-1][0].tolist())
    assert np.allclose(insight.score_map, prediction.score_map[0, 0])
    assert np.array_equal(insight.feature_map > 0, insight.kept[-1])
    # The third elimination kept the 89 tokens with most attention among the 126 that the second one left.
    seen = insight.attention[insight.kept[1]]
    assert np.array_equal(insight.attention > 0, insight.kept[1])
    assert insight.attention[insight.kept[2]].min() >= np.sort(seen)[-89]


def test_correlations_are_cosines_and_leave_the_network_as_it_was(weights):
    network, (template, search) = weights.model(), _crops()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    matrices = capture.correlations(network, template, search)
    assert len(matrices) == 4
    for values in matrices.values():
        assert values.shape == (320, 320)
        assert np.abs(values).max() <= 1 + 1e-5
    assert not np.allclose(matrices["features"], matrices["features without FDA"], atol=1e-4)
    assert (
        not np.allclose(matrices["features"], matrices["features without position embedding"], atol=1e-4)
        or not before["backbone.pos_embed_x"].any()
    )
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(block.attn.config == network.config for block in network.backbone.blocks)


def test_pictures_and_video_are_written(weights, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    truth = [(40.0, 30.0, 20.0, 20.0)] * 4
    with open_source(folder) as source:
        written = explain(source, truth[0], weights, out, [1, 3], truth, with_video=True)
    assert sorted(path.name for path in out.iterdir()) == ["correlations.png", "explain.mp4", "frames.png"]
    assert cv2.imread(str(written.rows)).shape[1] > 800
    with open_source(written.video) as video:
        assert sum(1 for _ in video) == 3


@pytest.mark.parametrize("box", [(10.0, 10.0, 0.0, 5.0), (float("nan"), 1.0, 2.0, 3.0)])
def test_a_box_that_no_tracker_can_start_from_is_named(weights, folder, tmp_path_factory, box):
    out = tmp_path_factory.mktemp("out")
    with open_source(folder) as source, pytest.raises(BoxError, match="box must"):
        explain(source, box, weights, out, [1])
    assert list(out.iterdir()) == []


def test_a_frame_that_is_not_there_is_named_and_leaves_nothing(weights, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    with open_source(folder) as source, pytest.raises(SourceError, match="there is no frame 9 to explain"):
        explain(source, (40.0, 30.0, 20.0, 20.0), weights, out, [1, 9], with_video=True)
    assert list(out.iterdir()) == []
