"""The command `python -m trainables`: check, preview, synthesize, systems."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from contract.environment import prepare_process

COMMANDS = {
    "check": "damaged files, copies, wrong labels and outliers of your data, as a page",
    "preview": "a contact sheet of an augmentation policy on your own images",
    "synthesize": "images of a small GAN for classes that have few, and how good they are",
    "systems": "the table of published systems, as Markdown",
}
"""Each command is a module of this package with `main(argv)`, imported only when it is asked for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; exit codes are 0 done, 1 it could not be done, 2 the flags are wrong."""
    prepare_process()
    given = list(sys.argv[1:] if argv is None else argv)
    name = given[0] if given else ""
    if name in COMMANDS:
        try:
            return int(importlib.import_module(f"trainables.{name}").main(given[1:]))
        except BrokenPipeError:  # piped into head
            sys.stderr.close()
            return 0
    lines = [f"  {command:10} {line}" for command, line in COMMANDS.items()]
    usage = "\n".join(["usage: python -m trainables COMMAND …", "", *lines])
    if name in ("-h", "--help"):
        print(usage)
        return 0
    complaint = f"there is no command {name!r}" if name else "which command?"
    print(f"error: {complaint}\n{usage}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
