"""`python -m stepstream.cli`: the command line, with the current directory importable."""

from stepstream.cli.app import main

__all__: list[str] = []

main()
