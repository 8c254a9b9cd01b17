"""From the three maps of the head to a box."""
