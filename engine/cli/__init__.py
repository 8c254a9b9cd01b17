"""The `esat` command: one file a command."""
