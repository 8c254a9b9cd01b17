"""The small network that tests make theirs by `replace`."""

from engine.config import ModelConfig

TINY = ModelConfig(
    name="tiny",
    dim=32,
    heads=2,
    depth=2,
    head_channels=8,
    template_size=32,
    search_size=64,
    search_factor=4.0,
    elimination_layers=(1,),
)
