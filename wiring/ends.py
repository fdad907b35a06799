"""How a command ends before its work is done: one line, and an exit code."""

from __future__ import annotations

import sys

from cluster.study.passwords import without_password
from contract.files import first_line


def fail(error: Exception, *, code: int, command: str = "tune.py") -> int:
    """Print what went wrong in one line, and return the exit code."""
    print(f"{command}: {without_password(first_line(error))}", file=sys.stderr)
    return code


def interrupted() -> int:
    """Say that the command was interrupted, and return its exit code."""
    print("\ninterrupted; run the same command to continue", file=sys.stderr)
    return 130
