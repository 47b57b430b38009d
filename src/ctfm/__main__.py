"""Run the command line with ``python -m ctfm``."""

from ctfm.cli import main

main()
