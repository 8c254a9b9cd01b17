"""Following targets: their state between frames, one or several of them. Knows no device."""
