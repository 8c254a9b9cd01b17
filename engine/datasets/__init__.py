"""Data sets on disk, for evaluation and training: their layouts, their boxes and labels, and a check of them. No PyTorch here."""
