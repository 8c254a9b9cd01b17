"""Candidate elimination: choose, gather and scatter tokens."""
