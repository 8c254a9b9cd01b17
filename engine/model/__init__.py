"""The network in PyTorch: reads like the paper's figure 2."""
