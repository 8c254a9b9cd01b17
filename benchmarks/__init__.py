"""Checks against golden files and measurements: each module runs as `python -m benchmarks.NAME`."""
