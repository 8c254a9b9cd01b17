"""`python -m engine` is the `esat` command."""

from engine.cli.app import main

main()
