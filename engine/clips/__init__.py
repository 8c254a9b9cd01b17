"""Targets followed through whole clips, from boxes given by hand into files: what `esat track` does, from Python."""
