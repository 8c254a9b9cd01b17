"""Accuracy: data set layouts, metric presets, evaluation runs, plots."""
