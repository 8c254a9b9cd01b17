"""The square search region around a box, cut out and resized."""
