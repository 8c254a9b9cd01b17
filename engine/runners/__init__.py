"""Engines that carry out a frame's work, behind one protocol."""
