"""Products of token rows with a weight, and what surrounds them in a transformer layer."""
