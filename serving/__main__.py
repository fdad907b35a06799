"""The command `python -m serving`: predict, start, check."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from contract.environment import prepare_process
from contract.files import first_line
from contract.stop_signals import stopping_like_ctrl_c

COMMANDS = {
    "predict": (
        "serving.prediction.predict",
        "labels for photos: files, folders, patterns, a CSV column, a bucket",
    ),
    "start": ("serving.server.start", "a server for requests, with a page to try the model in a browser"),
    "check": ("serving.check", "golden images through every format: does this machine answer alike?"),
}
"""Module of each command, whose `main(argv)` runs it, and its help; imported only when it is asked for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; exit codes are 0 done, 1 it ended badly, 2 flags or model are wrong, 130 interrupted."""
    prepare_process()
    given = list(sys.argv[1:] if argv is None else argv)
    name = given[0] if given else ""
    if name in COMMANDS:
        return _run(name, given[1:])
    lines = [f"  {command:10} {line}" for command, (_, line) in COMMANDS.items()]
    usage = "\n".join(["usage: python -m serving COMMAND …", "", *lines])
    if name in ("-h", "--help"):
        print(usage)
        return 0
    complaint = f"there is no command {name!r}" if name else "which command?"
    print(f"error: {complaint}\n{usage}", file=sys.stderr)
    return 2


def _run(name: str, argv: Sequence[str]) -> int:
    try:
        with stopping_like_ctrl_c():
            return int(importlib.import_module(COMMANDS[name][0]).main(argv))
    except BrokenPipeError:  # piped into head
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except ValueError as error:
        print(f"serving: {first_line(error)}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"serving: {first_line(error)}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
