"""Model configurations: the paper's numbers, and everything that cannot be."""

import pytest

from engine import PRESETS, ModelConfig, preset
from engine.errors import ConfigError


def test_token_schedule_is_the_papers():
    config = preset("esat-384")
    assert (config.num_template, config.num_search) == (144, 576)
    assert config.search_tokens_per_layer() == [576] * 3 + [404] * 3 + [283] * 3 + [199] * 3
    assert config.search_tokens_per_layer(keep_ratio=1.0) == [576] * 12


@pytest.mark.parametrize(("name", "token"), [("esat-384", 65), ("esat-256", 27), ("esat-s-256", 27), ("ostrack-384", 65)])
def test_template_token_is_the_public_codes(name, token):
    assert preset(name).template_token == token


def test_every_preset_survives_a_round_trip_through_a_dictionary():
    for config in PRESETS.values():
        assert ModelConfig.from_dict(config.to_dict()) == config


def test_delta_defaults_to_the_inverse_root_of_the_head_dimension():
    assert preset("esat-384").force_delta == 0.125
    assert ModelConfig(delta=0.02).force_delta == 0.02


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 100}, "dim must be a multiple of heads, got 100 and 12"),
        ({"search_size": 250}, "search_size must be a multiple of patch_size 16, got 250"),
        ({"depth": 0}, "depth must be an integer from 1 to 256, got 0"),
        ({"depth": 12.0}, "depth must be an integer from 1 to 256, got 12.0"),
        ({"alpha": -0.1}, "alpha must be zero or a positive number, got -0.1"),
        ({"beta": float("nan")}, "beta must be zero or a positive number, got nan"),
        ({"delta": float("inf")}, "delta must be None, zero or positive, got inf"),
        ({"keep_ratio": 0.0}, r"keep_ratio must lie in \(0, 1\], got 0.0"),
        ({"elimination_layers": (3, 3)}, "elimination_layers must ascend within"),
        ({"elimination_layers": (3, 12)}, "elimination_layers must ascend within"),
        ({"head_channels": 100}, "head_channels must be a multiple of 8, got 100"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**changes)


def test_unknown_names_say_what_there_is():
    with pytest.raises(ConfigError, match="expected one of esat-384"):
        preset("esat-9000")
    with pytest.raises(ConfigError, match="unknown keys"):
        ModelConfig.from_dict({"width": 3})
