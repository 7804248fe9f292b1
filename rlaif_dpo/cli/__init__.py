"""The command line: one file per verb, nothing heavy imported at the top."""

from rlaif_dpo.cli.app import main

__all__ = ["main"]
